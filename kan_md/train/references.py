"""Reference energies and the energy scale of a potential, and what is said about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kan_md.config.schema import TrainConfig
from kan_md.data.dataset import FramesDataset
from kan_md.data.isolated import AGREEMENT, isolated_energies
from kan_md.data.references import ISOLATED, ReferenceEnergies, reference_lines
from kan_md.data.statistics import EnergyScale, energy_scale, reference_energies
from kan_md.data.targets import ENERGY
from kan_md.errors import user_error
from kan_md.train.parts import Note, Parts

LARGEST_BINDING = 25.0
"""eV/atom; structures further from their isolated atoms have another reference."""


def potential_statistics(
    config: TrainConfig, parts: Parts, dataset: FramesDataset
) -> tuple[dict[str, Any], list[Note]]:
    """What energies are measured from and in.

    Returns:
        ``reference_energies`` by type, eV; ``reference_sources`` by type; ``forces_rms``, eV/Å
        (without outliers); and what to say about them.

    Raises:
        KanMdError: isolated atoms contradict each other or are missing where they are asked for,
            or all forces are zero.
    """
    found = _references(config, parts, dataset)
    scale = energy_scale(parts.frames["train"], found.residuals)
    statistics = {
        "reference_energies": found.energies,
        "reference_sources": dict(found.sources),
        "forces_rms": scale.value,
    }
    notes = [] if config.training.init_from else _reference_notes(config, parts, found)
    return statistics, notes + _scale_notes(config, scale)


def _references(config: TrainConfig, parts: Parts, dataset: FramesDataset) -> ReferenceEnergies:
    wanted = config.model.per_type_energy_shifts
    isolated = isolated_energies(parts.isolated["train"]) if wanted in ("auto", "isolated") else {}
    missing = [name for name in dataset.type_names if name not in isolated]
    if wanted == "isolated" and missing:
        raise user_error(
            "model.per_type_energy_shifts: isolated",
            found=f"no isolated atom with an energy of {', '.join(missing)} in data.train",
            allowed=None,
            remedy="add frames with config_type=IsolatedAtom, or set auto or a mapping",
        )
    return reference_energies(dataset, isolated)


def _reference_notes(config: TrainConfig, parts: Parts, found: ReferenceEnergies) -> list[Note]:
    wanted = config.model.per_type_energy_shifts
    if wanted == "zero":
        return []
    if not isinstance(wanted, str):
        return _contradictions(parts, wanted)
    lines = reference_lines(found.energies, found.sources)
    if not np.isfinite(found.residuals).any():
        lines = ["0 eV: no structure has an energy"]
    notes = [("references", line) for line in lines]
    known = found.residuals[np.isfinite(found.residuals)]
    if known.size and set(found.sources.values()) == {ISOLATED}:
        binding = float(np.median(known))
        if abs(binding) > LARGEST_BINDING:
            notes.append(
                (
                    "warning",
                    f"the structures lie {binding:+.1f} eV/atom from their isolated atoms: "
                    "do both have the same reference?",
                )
            )
    return notes + _contradictions(parts, found.energies)


def _contradictions(parts: Parts, energies: Mapping[str, float]) -> list[Note]:
    """Isolated atoms anywhere whose energies are not the reference energies."""
    notes = []
    for part, isolated in parts.isolated.items():
        differ: dict[str, float] = {}
        for atoms in isolated:
            symbol, label = str(atoms.symbols), ENERGY.label(atoms)
            if label is None or symbol not in energies:
                continue
            if abs(label.item() - energies[symbol]) > AGREEMENT:
                differ[symbol] = float(label.item())
        if differ:
            theirs = ", ".join(f"{symbol} {energy:.3f}" for symbol, energy in differ.items())
            used = ", ".join(f"{symbol} {energies[symbol]:.3f}" for symbol in differ)
            text = f"isolated atoms of data.{part} ({theirs} eV) are not the references ({used})"
            notes.append(("warning", text))
    return notes


def _scale_notes(config: TrainConfig, scale: EnergyScale) -> list[Note]:
    if config.model.per_type_energy_scales != "forces_rms" or config.training.init_from:
        return []
    if scale.of == "energies":
        text = f"{scale.value:.3g} eV, of energies: there are no forces"
    elif scale.outliers:
        text = (
            f"{scale.value:.3g} eV/Å, RMS of the forces without outliers ({scale.plain:.3g} with "
            "them)"
        )
    else:
        return []
    return [("energy scale", text)]
