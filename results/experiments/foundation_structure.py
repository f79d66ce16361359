"""Structures that models of published shapes are asked for; without torch."""

from __future__ import annotations

import ase
import numpy as np
from ase.build import bulk

from results.experiments.foundation_shapes import Shape

REPEATS = {64: 2, 512: 4}
"""By number of atoms, how often the cell of eight is repeated along each axis."""

_LATTICE = {"Si": 5.2, "C": 4.6}
"""Å, of a diamond lattice in which the second element takes a quarter of the sites."""


def structure(shape: Shape, repeat: int = 1) -> ase.Atoms:
    """Diamond lattice with every fourth atom of the second element, atoms displaced by 0.05 Å.

    Args:
        shape: gives the elements.
        repeat: of the cell of eight atoms along each axis.
    """
    first, second = shape.chosen
    atoms = bulk(first, "diamond", a=_LATTICE[first], cubic=True).repeat(repeat)
    atoms.symbols[::4] = second
    rng = np.random.default_rng(3)
    atoms.positions += rng.normal(0.0, 0.05, atoms.positions.shape)
    return atoms
