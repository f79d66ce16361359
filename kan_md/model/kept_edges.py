"""The neighbour list of a structure that moves, made anew only where atoms may have come closer.

Pairs are found to r_max + skin once. With F the linear map between the cell of then and that of
now, an atom that was at x is at x F + u. Two atoms that were further apart than r_max + skin are
now at least s (r_max + skin) - |u_j - u_i| apart, s the smallest singular value of F: the list
holds while that is r_max or more for the largest difference that there may be, 2 max |u - mean u|.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import ase
import numpy as np
import torch

from kan_md.model.cells import SMALLEST_VOLUME, completed_cell
from kan_md.model.graph import (
    EdgeGraph,
    atom_types_of,
    periodic_edges,
    refuse_close_atoms,
)

SKIN = 0.5
"""Å; half as much may two atoms move against the others before a list is made anew."""


class _Kept(NamedTuple):
    """A structure and the pairs that it had within r_max + skin."""

    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    numbers: np.ndarray
    types: torch.Tensor
    index: torch.Tensor
    cell_shift: torch.Tensor


class KeptEdges:
    """:func:`kan_md.model.graph.edge_graph` for one structure after another of a trajectory.

    Every call gives exactly the pairs closer than r_max now, sorted by centre; in which order those
    of a centre come is not said.

    Args:
        r_max: cutoff, Å.
        type_names: element symbols in the order of the type index.
        skin: Å.

    Attributes:
        num_made: how often a list was made.
    """

    def __init__(self, r_max: float, type_names: Sequence[str], *, skin: float = SKIN):
        self._r_max, self._type_names, self._skin = r_max, tuple(type_names), skin
        self._kept: _Kept | None = None
        self._shifts_of: tuple[np.ndarray, torch.Tensor] | None = None
        self.num_made = 0

    def __call__(self, atoms: ase.Atoms) -> EdgeGraph:
        """Types and neighbours.

        Raises:
            KanMdError: an element is unknown, a position is not finite, two atoms sit on one
                another, or there is no cell where one is needed.
        """
        if self._kept is None or not self._holds(self._kept, atoms):
            self._kept = self._make(atoms)
        kept, positions = self._kept, torch.from_numpy(np.ascontiguousarray(atoms.positions))
        vectors = positions.index_select(0, kept.index[1])
        vectors -= positions.index_select(0, kept.index[0])
        vectors += self._shifts(kept, atoms)
        squares = vectors.square().sum(1)
        refuse_close_atoms(atoms, squares, kept.index)
        near = (squares < self._r_max**2).nonzero().view(-1)
        return EdgeGraph(
            vectors.index_select(0, near), kept.index.index_select(1, near), kept.types
        )

    def _make(self, atoms: ase.Atoms) -> _Kept:
        types = atom_types_of(atoms, self._type_names)
        edges = periodic_edges(atoms, self._r_max + self._skin)
        self._shifts_of = None
        self.num_made += 1
        return _Kept(
            positions=atoms.positions.copy(),
            cell=atoms.cell.array.copy(),
            pbc=atoms.pbc.copy(),
            numbers=atoms.numbers.copy(),
            types=types,
            index=edges.edge_index,
            cell_shift=edges.edge_cell_shift,
        )

    def _shifts(self, kept: _Kept, atoms: ase.Atoms) -> torch.Tensor:
        """Shift of each pair's neighbour, [num_pairs, 3], Å."""
        cell = atoms.cell.array
        if self._shifts_of is None or not np.array_equal(self._shifts_of[0], cell):
            # Vectors that were made up have no shifts.
            complete = torch.from_numpy(completed_cell(atoms))
            self._shifts_of = cell.copy(), kept.cell_shift @ complete
        return self._shifts_of[1]

    def _holds(self, kept: _Kept, atoms: ase.Atoms) -> bool:
        """Whether all pairs closer than r_max are among those that were found; not so for NaN."""
        if not (
            np.array_equal(kept.numbers, atoms.numbers) and np.array_equal(kept.pbc, atoms.pbc)
        ):
            return False
        cell, then, smallest = atoms.cell.array, kept.positions, 1.0
        if not np.isfinite(cell).all():
            return False
        if not np.array_equal(cell, kept.cell):
            if min(abs(np.linalg.det(c)) for c in (cell, kept.cell)) < SMALLEST_VOLUME:
                return False
            deformation = np.linalg.solve(kept.cell, cell)
            then = then @ deformation
            smallest = np.linalg.svd(deformation, compute_uv=False)[-1]
        moved = atoms.positions - then
        moved -= moved.mean(0) if len(moved) else 0.0
        furthest = np.sqrt(np.square(moved).sum(1).max(initial=0.0))
        return bool(smallest * (self._r_max + self._skin) - 2.0 * furthest >= self._r_max)
