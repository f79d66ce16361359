"""Labels from wherever a file keeps them, whatever it calls them, with ASE's meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from kan_md.data.label_report import LabelReport
from kan_md.data.label_search import LABEL_KEYS, LabelSearch
from kan_md.errors import user_error
from kan_md.model.cells import has_volume
from kan_md.tasks.targets import WEIGHT_KEYS, label_weight

_PER_ATOM_RESULTS = {"stresses", "charges", "magmoms", "energies", "born_effective_charges"}


def collect_labels(atoms: Atoms, keys: Mapping[str, str], report: LabelReport) -> None:
    """Put energy, forces and stress into one calculator, and weights into ``info``.

    Labels that are NaN, nothing, or of weight 0 are missing labels, as is the stress of a structure
    without a volume. ``info`` gets ``config_weight`` and MACE's weights of single labels as
    numbers; other results of the calculator go into ``arrays`` and ``info``.

    Args:
        atoms: changed in place.
        keys: names of the labels, all of :data:`LABEL_KEYS`.
        report: gets what was noticed.

    Raises:
        KanMdError: a label or weight is no number, has the wrong size, or is infinite; a weight
            is negative or NaN.
    """
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    places = [results, atoms.info]
    report.names.update(str(name) for place in (*places, atoms.arrays) for name in place)
    search = LabelSearch(atoms, keys, places, report)
    stress, stress_weights = search.stress()
    labels = {"energy": search.energy(), "forces": search.forces(), "stress": stress}
    search.keep_weights({**WEIGHT_KEYS, "stress": stress_weights})
    for label, value in labels.items():
        if value is not None and (reason := _why_not(atoms, label)):
            report.drop(label, reason, atoms)
            labels[label] = None
    _keep_other_results(atoms, results)
    for name in ("energy", "free_energy", "forces", "stress"):  # the calculator has them now
        atoms.info.pop(name, None)
    atoms.arrays.pop("forces", None)
    labels = {label: value for label, value in labels.items() if value is not None}
    atoms.calc = SinglePointCalculator(atoms, **labels) if labels else None


def _why_not(atoms: Atoms, label: str) -> str | None:
    """Why a label does not count."""
    if label_weight(atoms, label) == 0.0:
        return "weight 0"
    if label == "stress" and not has_volume(atoms):
        return "no periodic cell with a volume"
    return None


def parse_keys(options: Sequence[str]) -> dict[str, str]:
    """Names of labels from ``LABEL=NAME`` as the command line gives them.

    Raises:
        KanMdError: a label is unknown, or has no name.
    """
    keys = dict(part.partition("=")[::2] for part in options)
    unknown = sorted(keys.keys() - LABEL_KEYS.keys())
    if unknown or not all(keys.values()):
        raise user_error(
            "--key",
            found=", ".join(unknown) or "no name",
            allowed=", ".join(f"{name}=NAME" for name in LABEL_KEYS),
            remedy="e.g. --key energy=REF_energy",
        )
    return keys


def check_keys(report: LabelReport, keys: Mapping[str, str]) -> None:
    """Refuse names of labels that a user gives and no structure has.

    Args:
        report: of the labels of all structures.
        keys: by label; names that are the default ones are not looked at.

    Raises:
        KanMdError: a name is nowhere.
    """
    for label, name in keys.items():
        if name != LABEL_KEYS[label] and name not in report.names:
            raise user_error(
                f"name of {label}",
                found=f"{name}, which no structure has",
                allowed=report.about(label),
                remedy=f"name what the file calls {label}",
            )


def _keep_other_results(atoms: Atoms, results: Mapping[str, object]) -> None:
    """Results that are no labels of a potential may be those of a tensor model."""
    for name, value in results.items():
        if name in LABEL_KEYS or name == "free_energy" or name in atoms.arrays:
            continue
        if name in _PER_ATOM_RESULTS:
            columns = np.asarray(value)
            atoms.set_array(name, columns.reshape(len(atoms), -1) if columns.ndim > 2 else columns)
        else:
            atoms.info.setdefault(name, value)
