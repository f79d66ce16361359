"""Telling structures apart by what they are, not by the files they are in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from ase import Atoms

DIGITS = 5
"""Decimals of positions and cell, Å, that count: files have between 6 and 16."""


def structure_key(atoms: Atoms) -> bytes:
    """A digest of elements, positions, cell and periodicity; labels do not count."""
    cell = atoms.cell.array * atoms.pbc[:, None]  # the box of a molecule makes no difference
    state = hashlib.sha256(atoms.numbers.astype(np.int64).tobytes())
    state.update(atoms.pbc.tobytes())
    for array in (atoms.positions, cell):
        state.update((np.round(array, DIGITS) + 0.0).tobytes())  # + 0.0: there are two zeros
    return state.digest()


def shared(frames: Sequence[Atoms], others: Sequence[Atoms]) -> list[Atoms]:
    """Structures among ``frames`` that are among ``others`` too."""
    known = {structure_key(atoms) for atoms in others}
    return [atoms for atoms in frames if structure_key(atoms) in known]


def repeated(frames: Sequence[Atoms]) -> list[list[int]]:
    """Indices of structures that occur more than once, one list for each of them."""
    places: dict[bytes, list[int]] = {}
    for index, atoms in enumerate(frames):
        places.setdefault(structure_key(atoms), []).append(index)
    return [indices for indices in places.values() if len(indices) > 1]
