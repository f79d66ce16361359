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
from kan_md.errors import user_error
from kan_md.model.checkpoint import load_checkpoint
from kan_md.tasks.targets import ENERGY
from kan_md.train.structures import Note, Parts

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
    worked_out = (
        config.model.per_type_energy_scales == "forces_rms" and config.training.init_from is None
    )
    scale = energy_scale(parts.frames["train"], found.residuals, used=worked_out)
    energies, sources = _used(config, found)
    statistics = {
        "reference_energies": energies,
        "reference_sources": sources,
        "forces_rms": scale.value,
    }
    notes = _reference_notes(parts, found, energies, sources)
    return statistics, notes + _scale_notes(config, scale)


def _used(config: TrainConfig, found: ReferenceEnergies) -> tuple[dict[str, float], dict[str, str]]:
    """The reference energies that the model will have, eV, and where they come from."""
    wanted = config.model.per_type_energy_shifts
    if not isinstance(wanted, str):
        return dict(wanted), dict.fromkeys(wanted, "given")
    if wanted == "zero":
        return dict.fromkeys(found.energies, 0.0), dict.fromkeys(found.energies, "zero")
    if config.training.init_from is not None:
        known = _source_energies(config)
        if known:  # a type that the source does not have takes what is found beside them
            energies = {name: known.get(name, energy) for name, energy in found.energies.items()}
            return energies, {
                name: "training.init_from" if name in known else source
                for name, source in found.sources.items()
            }
    return found.energies, dict(found.sources)


def _source_energies(config: TrainConfig) -> dict[str, float]:
    """Reference energies of the model that weights are taken from, eV by type."""
    if config.training.init_from is None:
        return {}
    source = load_checkpoint(config.training.init_from, wanted="source").config["model"]
    shifts = source.get("per_type_energy_shifts")
    return {n: float(e) for n, e in shifts.items()} if isinstance(shifts, Mapping) else {}


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
    return reference_energies(dataset, {**isolated, **_source_energies(config)})


def _reference_notes(
    parts: Parts,
    found: ReferenceEnergies,
    energies: Mapping[str, float],
    sources: Mapping[str, str],
) -> list[Note]:
    lines = reference_lines(energies, sources)
    if not np.isfinite(found.residuals).any() and sources == found.sources:
        lines = ["0 eV: no structure has an energy"]
    notes = [("references", line) for line in lines]
    unused = [
        str(atoms.symbols)
        for atoms in parts.isolated["train"]
        if str(atoms.symbols) not in energies
    ]
    if unused:
        text = f"{', '.join(dict.fromkeys(unused))}: in no training structure, not used"
        notes.append(("isolated atoms", text))
    known = found.residuals[np.isfinite(found.residuals)]
    if known.size and set(sources.values()) == {ISOLATED}:
        binding = float(np.median(known))
        if abs(binding) > LARGEST_BINDING:
            text = (
                f"the structures lie {binding:+.1f} eV/atom from their isolated atoms: do both "
                "have the same reference?"
            )
            notes.append(("warning", text))
    return notes + _contradictions(parts, energies)


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
