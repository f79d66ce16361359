"""The triplet list k → j → i of a graph, from its edges alone."""

from __future__ import annotations

import torch


def build_triplets(
    edge_vectors: torch.Tensor, edge_index: torch.Tensor, num_atoms: int, leg_r_max: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pair every edge (i, j) with every edge (j, k), both shorter than ``leg_r_max``.

    The path back to the same image of i is left out; other images of i count as neighbours like any
    other atom. Time and memory are linear in the number of triplets: edges are sorted by centre, so
    the continuations of an edge are a slice of that order, and slices are enumerated by their
    lengths.

    Args:
        edge_vectors: [num_edges, 3], r_neighbour - r_centre, Å.
        edge_index: [2, num_edges] int64, centre and neighbour, in any order.
        num_atoms: number of atoms, ghosts included.
        leg_r_max: Å.

    Returns:
        ``near`` and ``far``, each [num_triplets] int64: indices of the edges (i, j) and (j, k).
        Triplets of one near edge are consecutive, and near edges are sorted by centre.
    """
    short = (edge_vectors.square().sum(-1) < leg_r_max * leg_r_max).nonzero().view(-1)
    centre = torch.index_select(edge_index[0], 0, short)
    order = torch.argsort(centre, stable=True)
    short = torch.index_select(short, 0, order)  # short edges by centre
    centre = torch.index_select(centre, 0, order)
    neighbour = torch.index_select(edge_index[1], 0, short)

    degree = torch.bincount(centre, minlength=num_atoms)  # short edges of each atom
    first = torch.cumsum(degree, 0) - degree
    continuations = torch.index_select(degree, 0, neighbour)  # per short edge (i, j)
    near = torch.repeat_interleave(continuations)  # [all paths], position in `short`
    offset = torch.cumsum(continuations, 0) - continuations
    within = torch.arange(near.size(0), device=near.device) - torch.index_select(offset, 0, near)
    far = torch.index_select(torch.index_select(first, 0, neighbour), 0, near) + within

    near_edge = torch.index_select(short, 0, near)
    far_edge = torch.index_select(short, 0, far)
    path = torch.index_select(edge_vectors, 0, near_edge) + torch.index_select(
        edge_vectors, 0, far_edge
    )
    # Two images of one atom are never closer than 0.01 Å: such a path has come back to i itself.
    same_index = torch.index_select(centre, 0, near) == torch.index_select(neighbour, 0, far)
    open_path = ~(same_index & (path.square().sum(-1) < 1e-4))
    keep = open_path.nonzero().view(-1)
    return torch.index_select(near_edge, 0, keep), torch.index_select(far_edge, 0, keep)
