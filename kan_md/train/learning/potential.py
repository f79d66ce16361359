"""What learning potentials takes: isolated atoms apart, references, weights by spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from ase import Atoms

from kan_md.config.schema import DataConfig, TrainConfig
from kan_md.data.dataset import FramesDataset
from kan_md.data.isolated import is_marked, separate_isolated
from kan_md.data.label_report import source_of, structures
from kan_md.model.checkpoint import Checkpoint
from kan_md.model.graph import periodic_edges
from kan_md.tasks.targets import ENERGY, FORCES
from kan_md.train.balanced_weights import balanced
from kan_md.train.finetune import find_reference_gap
from kan_md.train.loss_shares import LOSS_KEY
from kan_md.train.references import potential_statistics
from kan_md.train.structures import Note, Parts


class PotentialLearning:
    """See :class:`kan_md.train.learning.Learning`."""

    weight_key: ClassVar[str] = LOSS_KEY

    def sort_out(self, parts: Parts, data: DataConfig, r_max: float) -> None:
        """Isolated atoms hold reference energies; ``data.max_force`` leaves structures out."""
        _note_odd_marks(parts)
        _set_isolated_apart(parts, r_max, keep=data.isolated_atoms == "train")
        _leave_out_large_forces(parts, data.max_force)

    def study(
        self, config: TrainConfig, parts: Parts, dataset: FramesDataset
    ) -> tuple[TrainConfig, dict[str, Any], list[Note]]:
        """Reference energies, the scale of energies, and balanced weights."""
        statistics, notes = potential_statistics(config, parts, dataset)
        config, weights = balanced(config, parts.frames["train"], dataset)
        return config, statistics, notes + weights

    def arguments(self, statistics: Mapping[str, Any]) -> dict[str, Any]:
        """Shifts and scales of the energies."""
        return {
            "per_type_energy_shifts": statistics["reference_energies"],
            "per_type_energy_scales": statistics["forces_rms"],
        }

    def source_notes(
        self, config: TrainConfig, frames: Sequence[Atoms], source: Checkpoint
    ) -> list[Note]:
        """Whether energies are measured from where that model measures them."""
        shifts = config.model.per_type_energy_shifts
        given = None if isinstance(shifts, str) else shifts
        gap = find_reference_gap(source, frames, 0.0 if shifts == "zero" else given)
        if gap is None or not gap.is_of_another_reference:
            return []
        constants = ", ".join(f"{name} {value:+.3f}" for name, value in gap.constants.items())
        references = ", ".join(f"{name}: {value:.4f}" for name, value in gap.shifts.items())
        return [
            (
                "warning",
                f"energies lie {gap.rms:.3g} eV/atom (RMS) off those of training.init_from, and "
                f"{gap.remainder:.2g} with a constant per type ({constants} eV): labels of another "
                f"reference? then set model.per_type_energy_shifts: {{{references}}}",
            )
        ]


def _set_isolated_apart(parts: Parts, r_max: float, *, keep: bool) -> None:
    for part, frames in parts.frames.items():
        others, parts.isolated[part] = separate_isolated(frames, r_max)
        if not keep:
            parts.frames[part] = others
    isolated = [atoms for found in parts.isolated.values() for atoms in found]
    if not isolated:
        return
    elements = ", ".join(dict.fromkeys(str(atoms.symbols) for atoms in isolated))
    fate = "also in the loss" if keep else "reference energies, not in the loss"
    parts.notes.append(("isolated atoms", f"{len(isolated)} of {elements}: {fate}"))
    without = [atoms for atoms in isolated if ENERGY.label(atoms) is None]
    if without:
        text = f"{len(without)} without an energy: no references (first {source_of(without[0])})"
        parts.notes.append(("isolated atoms", text))
    crowded = [a for a in isolated if periodic_edges(a, r_max).edge_index.shape[1]]
    if crowded:
        text = (
            f"{source_of(crowded[0])}, called an isolated atom, has images within {r_max:g} Å: is "
            "its cell too small?"
        )
        parts.notes.append(("warning", text))


def _note_odd_marks(parts: Parts) -> None:
    odd = [
        atoms
        for frames in parts.frames.values()
        for atoms in frames
        if len(atoms) > 1 and is_marked(atoms)
    ]
    if odd:
        parts.notes.append(
            (
                "isolated atoms",
                f"{structures(len(odd))} of several atoms called so: "
                f"used as any other (first {source_of(odd[0])})",
            )
        )


def _leave_out_large_forces(parts: Parts, max_force: float | None) -> None:
    if max_force is None:
        return
    dropped = []
    for part, frames in parts.frames.items():
        largest = [_largest_component(atoms) for atoms in frames]
        dropped += [a for a, size in zip(frames, largest, strict=True) if size > max_force]
        parts.frames[part] = [
            a for a, size in zip(frames, largest, strict=True) if not size > max_force
        ]
    if dropped:
        parts.notes.append(
            (
                "left out",
                f"{structures(len(dropped))} by data.max_force: {max_force:g} eV/Å "
                f"(first {source_of(dropped[0])})",
            )
        )


def _largest_component(atoms: Atoms) -> float:
    """eV/Å; NaN without forces."""
    forces = FORCES.label(atoms)
    return np.nan if forces is None else float(np.nanmax(np.abs(forces)))
