"""The numbers of a survey by ``config_type``, for tables and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from kan_md.data.label_report import LabelReport, source_of, sources_in_words
from kan_md.data.references import reference_lines
from kan_md.data.survey import Survey, composition_counts
from kan_md.tasks.targets import ENERGY, FORCES, STRESS

_SHOWN = 4

GPA = 160.21766208
"""GPa in 1 eV/Å³."""


def group_rows(survey: Survey) -> list[dict[str, object]]:
    """One row for each ``config_type``, and one for all where there is more than one.

    Returns:
        ``config_type``, ``structures``, ``atoms`` (smallest and largest number), ``labels`` (number
        of structures with each), ``energy`` (lowest and highest above the reference energies,
        eV/atom), ``force_rms`` and ``force_max`` (eV/Å), ``pressure`` (lowest and highest, GPa),
        ``closest`` (Å); None where there is nothing.
    """
    types = survey.config_types
    names = [name for name, _ in Counter(types).most_common()]
    groups = {name: [i for i, kind in enumerate(types) if kind == name] for name in names}
    if len(groups) > 1:
        groups["all"] = list(range(len(types)))
    return [_row(survey, name, indices) for name, indices in groups.items()]


def _row(survey: Survey, name: str, indices: Sequence[int]) -> dict[str, object]:
    frames = [survey.frames[index] for index in indices]
    forces = [label.ravel() for atoms in frames if (label := FORCES.label(atoms)) is not None]
    components = _finite(np.concatenate(forces) if forces else np.empty(0))
    lengths = _finite(np.concatenate([force_lengths(atoms) for atoms in frames]))
    closest = _finite(np.array([survey.distances[index].closest for index in indices]))
    return {
        "config_type": name,
        "structures": len(frames),
        "atoms": [min(map(len, frames)), max(map(len, frames))],
        "labels": survey.labelled(frames),
        "energy": _ends(survey.references.residuals[list(indices)]),
        "force_rms": float(np.sqrt(np.mean(components**2))) if components.size else None,
        "force_max": float(lengths.max()) if lengths.size else None,
        "pressure": _ends(np.array([pressure(atoms) for atoms in frames])),
        "closest": float(closest.min()) if closest.size else None,
    }


def force_lengths(atoms: Atoms) -> np.ndarray:
    """[num_atoms], eV/Å; empty without forces."""
    label = FORCES.label(atoms)
    return np.empty(0) if label is None else np.linalg.norm(label, axis=1)


def pressure(atoms: Atoms) -> float:
    """GPa, positive under compression; NaN without stress."""
    label = STRESS.label(atoms)
    return np.nan if label is None else -GPA * float(np.trace(label[0])) / 3


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _ends(values: np.ndarray) -> list[float] | None:
    known = _finite(values)
    return [float(known.min()), float(known.max())] if known.size else None


def summary_lines(survey: Survey, report: LabelReport) -> list[str]:
    """What a survey says beside its table."""
    elements = Counter(symbol for atoms in survey.frames for symbol in atoms.symbols)
    formulas = composition_counts(survey.frames)
    notes: list[tuple[str, str]] = [
        ("elements", ", ".join(f"{symbol} {count}" for symbol, count in elements.most_common())),
        ("compositions", _most_common(formulas)),
    ]
    labels = survey.labelled()
    total = len(survey.frames)
    notes.append(("labels", ", ".join(f"{name} {n} of {total}" for name, n in labels.items())))
    notes += [("", line) for line in report.lines()]
    if survey.isolated:
        notes.append(("isolated atoms", _isolated(survey.isolated)))
    if np.isfinite(survey.references.residuals).any():
        lines = reference_lines(survey.references.energies, survey.references.sources)
        notes += [("references" if index == 0 else "", line) for index, line in enumerate(lines)]
    for finding in survey.findings:
        notes.append((finding.kind, finding.text))
        notes.append(("", sources_in_words(finding.sources)))
    if not survey.findings:
        notes.append(("nothing odd", "no duplicates, outliers, short distances or lonely atoms"))
    width = max(len(heading) for heading, _ in notes)
    return [f"{heading:<{width}}  {text}" for heading, text in notes if text]


def _most_common(formulas: Counter[str]) -> str:
    shown = ", ".join(f"{formula} {count}" for formula, count in formulas.most_common(_SHOWN))
    more = len(formulas) - _SHOWN
    return shown + f" and {more} more" * (more > 0)


def _isolated(isolated: Sequence[Atoms]) -> str:
    labels = [(atoms.symbols, ENERGY.label(atoms)) for atoms in isolated]
    return ", ".join(
        f"{symbol} {'without energy' if label is None else f'{label.item():.4f} eV'}"
        for symbol, label in labels
    )


def as_plain(survey: Survey, report: LabelReport) -> dict[str, object]:
    """A survey as JSON takes it."""
    elements = Counter(symbol for atoms in survey.frames for symbol in atoms.symbols)
    references = survey.references
    return {
        "structures": len(survey.frames),
        "isolated_atoms": [source_of(atoms) for atoms in survey.isolated],
        "elements": dict(elements),
        "config_types": [row for row in group_rows(survey) if row["config_type"] != "all"],
        "labels": survey.labelled(),
        "label_notes": report.lines(),
        "entries": sorted(report.names),
        "reference_energies": {
            name: {"energy": energy, "source": references.sources[name]}
            for name, energy in references.energies.items()
        },
        "findings": [
            {"kind": finding.kind, "text": finding.text, "structures": finding.sources}
            for finding in survey.findings
        ],
    }
