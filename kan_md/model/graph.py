"""The neighbour list of the Python side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import ase
import numpy as np
import torch
from matscipy.neighbours import neighbour_list

from kan_md.errors import user_error
from kan_md.model.cells import completed_cell

COINCIDENT = 0.01
"""Å; atoms closer than this sit on one another, here as in the pair styles."""


class EdgeGraph(NamedTuple):
    """What a deployed potential takes, for one structure of which every atom is local.

    Attributes:
        edge_vectors: [num_edges, 3] float64, r_neighbour - r_centre, Å.
        edge_index: [2, num_edges] int64; row 0 centre, row 1 neighbour; sorted by centre.
        atom_types: [num_atoms] int64.
    """

    edge_vectors: torch.Tensor
    edge_index: torch.Tensor
    atom_types: torch.Tensor


class PeriodicEdges(NamedTuple):
    """Pairs within a cutoff, each in both directions, sorted by centre.

    Attributes:
        edge_vectors: [num_edges, 3] float64, r_neighbour - r_centre, Å.
        edge_index: [2, num_edges] int64; row 0 centre, row 1 neighbour.
        edge_cell_shift: [num_edges, 3] float64, image of the neighbour, in cell vectors.
    """

    edge_vectors: torch.Tensor
    edge_index: torch.Tensor
    edge_cell_shift: torch.Tensor


def edge_graph(atoms: ase.Atoms, r_max: float, type_names: Sequence[str]) -> EdgeGraph:
    """Find types and neighbours of a structure.

    Args:
        atoms: the structure; cell and pbc as in ASE.
        r_max: cutoff, Å.
        type_names: element symbols in the order of the type index.

    Raises:
        KanMdError: an element is none of ``type_names``, a position is not finite, or two atoms sit
            on one another.
    """
    types = atom_types_of(atoms, type_names)
    edges = periodic_edges(atoms, r_max)
    refuse_close_atoms(atoms, edges.edge_vectors.square().sum(1), edges.edge_index)
    return EdgeGraph(edges.edge_vectors, edges.edge_index, types)


def periodic_edges(atoms: ase.Atoms, r_max: float) -> PeriodicEdges:
    """Find all pairs closer than ``r_max``, periodic images included.

    The one convention of the Python side: edge_vectors = r_neighbour + S·cell - r_centre with
    whole-numbered S, zero along directions that are not periodic, and the cell of
    :func:`kan_md.model.cells.completed_cell`. S is worked out from the vectors that the neighbour
    list gives, and held against them.

    Raises:
        KanMdError: a position is not finite, or there is no cell where one is needed.
    """
    positions = atoms.get_positions()
    if not np.isfinite(positions).all():
        raise user_error(
            "positions must be finite",
            found=f"NaN or infinity at atom {int(np.argwhere(~np.isfinite(positions))[0, 0])}",
            allowed=None,
            remedy="check the structure",
        )
    if len(atoms):
        cell = completed_cell(atoms)  # atoms are sorted into a box even without one
        i, j, vectors = neighbour_list(
            "ijD", pbc=atoms.pbc, cell=cell, positions=positions, cutoff=float(r_max)
        )
        shifts = _image_shifts(vectors, positions[j] - positions[i], cell, atoms.pbc)
    else:
        i = j = np.zeros(0, dtype=np.int64)
        shifts = vectors = np.zeros((0, 3))
    order = np.argsort(i, kind="stable")
    return PeriodicEdges(
        edge_vectors=torch.from_numpy(vectors[order].astype(np.float64)),
        edge_index=torch.from_numpy(np.stack([i[order], j[order]]).astype(np.int64)),
        edge_cell_shift=torch.from_numpy(shifts[order].astype(np.float64)),
    )


def refuse_close_atoms(
    atoms: ase.Atoms,
    squares: torch.Tensor,
    edge_index: torch.Tensor,
    *,
    closest: float = COINCIDENT,
) -> None:
    """Refuse pairs of atoms without a distance: functions of directions need one.

    Args:
        atoms: the structure, for the message.
        squares: [num_edges], squared lengths, Å².
        edge_index: [2, num_edges].
        closest: Å.

    Raises:
        KanMdError: an edge is shorter than that.
    """
    if not len(squares) or float(squares.min()) >= closest**2:
        return
    edge = int(squares.argmin())
    centre, neighbour = sorted(edge_index[:, edge].tolist())
    length = float(squares[edge]) ** 0.5
    raise user_error(
        f"atoms of {atoms.info.get('source', atoms.get_chemical_formula())} must not sit on one "
        "another",
        found=f"numbers {centre} and {neighbour} at a distance of {length:.3g} Å",
        allowed=f"{closest} Å and more",
        remedy="remove the structure, or duplicates from it (ase.geometry.get_duplicate_atoms); "
        "mind both sides of a periodic cell",
    )


def _image_shifts(
    vectors: np.ndarray, within: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> np.ndarray:
    """Image of the neighbour of each pair, [num_edges, 3], in whole cell vectors.

    Args:
        vectors: [num_edges, 3], from the centre to that image, Å.
        within: [num_edges, 3], r_neighbour - r_centre of the atoms as they are given, Å.
        cell: [3, 3], complete, vectors as rows.
        pbc: [3].
    """
    shifts = np.rint((vectors - within) @ np.linalg.inv(cell))
    deviation = np.abs(within + shifts @ cell - vectors).max(initial=0.0)
    size = max(np.abs(cell).max(), np.abs(within).max(initial=0.0))
    consistent = deviation <= 1e-9 * size and not shifts[:, ~pbc].any()
    assert consistent, f"neighbour list and cell differ by {deviation:.3g} Å"
    return shifts


def atom_types_of(atoms: ase.Atoms, type_names: Sequence[str]) -> torch.Tensor:
    """Type index of every atom, [num_atoms] int64.

    Raises:
        KanMdError: an element is none of ``type_names``.
    """
    index = {name: number for number, name in enumerate(type_names)}
    symbols = atoms.get_chemical_symbols()
    unknown = sorted(set(symbols) - index.keys())
    if unknown:
        raise user_error(
            "elements that the model does not know",
            found=", ".join(unknown),
            allowed=", ".join(type_names),
            remedy="use a model trained with these elements",
        )
    return torch.tensor([index[symbol] for symbol in symbols], dtype=torch.int64)
