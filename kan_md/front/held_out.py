"""What a front needs of the data: structures to judge by, and one to time with."""

from __future__ import annotations

from math import prod

import numpy as np
from ase import Atoms

from kan_md.config.schema import TrainConfig
from kan_md.errors import user_error
from kan_md.train.learning import learning_of
from kan_md.train.structures import read_parts

FEWEST_ATOMS = 500
"""With fewer, what LAMMPS does once per step would count as a model's cost per atom."""


def read_held_out(config: TrainConfig) -> tuple[list[Atoms], list[str]]:
    """The test part as training will divide it, and warnings of structures in two parts.

    Raises:
        KanMdError: there is no test part, or no forces in it; or the data cannot be used.
    """
    parts = read_parts(
        config.data,
        config.task.targets,
        sort_out=lambda found: learning_of(config).sort_out(found, config.data, config.model.r_max),
    )
    frames = parts.frames["test"]
    if not frames:
        raise user_error(
            "a front is drawn of held-out errors, and the configuration leaves no test structures",
            found="0",
            allowed=None,
            remedy="add data.test: test.xyz, or data.split: {train: 0.8, val: 0.1, test: 0.1} "
            "without a file for data.val",
        )
    (forces,) = (target for target in config.task.targets if target.name == "forces")
    if all(forces.label(atoms) is None for atoms in frames):
        raise user_error(
            "a front is drawn of errors of forces",
            found=f"{len(frames)} test structures without forces",
            allowed=None,
            remedy="label them, or name the label in data.keys",
        )
    return frames, [text for heading, text in parts.notes if heading == "warning"]


def timing_structure(atoms: Atoms, *, r_max: float, fewest: int = FEWEST_ATOMS) -> Atoms:
    """A structure repeated until it has enough atoms, along its shortest sides first.

    Only periodic directions are repeated where there are any; else copies stand `r_max` and more
    apart, so that none has neighbours in another.

    Args:
        atoms: [num_atoms], with or without a cell.
        r_max: Å.
        fewest: atoms to reach.

    Returns:
        Positions, elements and a cell with a volume; no labels.
    """
    copy = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    absent = [axis for axis in range(3) if not copy.cell[axis].any()]
    if not copy.pbc.any():
        absent = [0, 1, 2]
    if absent:
        copy.pbc[absent] = False
        copy.center(vacuum=r_max, axis=absent)
    axes = np.flatnonzero(copy.pbc) if copy.pbc.any() else np.arange(3)
    lengths, times = copy.cell.lengths(), np.ones(3, dtype=int)
    while prod(times) * len(copy) < fewest:
        times[axes[np.argmin((lengths * times)[axes])]] += 1
    return copy.repeat(tuple(times))
