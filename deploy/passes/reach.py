"""How far each layer of message passing has to compute, given that only local atoms count.

Atoms come in the order in which a walk from the local atoms meets them, so that every layer needs
a first part of them: the last layer the local atoms, the one before it also their neighbours, and
so on. Where all atoms are local these functions change and cost nothing.
"""

from __future__ import annotations

import torch


def centres_per_layer(edge_index: torch.Tensor, num_local: int, num_layers: int) -> list[int]:
    """How many of the first atoms each layer computes, first layer first.

    Args:
        edge_index: [2, num_edges], sorted by centre.
        num_local: number of local atoms.
        num_layers: number of layers.
    """
    counts = [num_local]
    for _ in range(num_layers - 1):
        reached = counts[0]
        neighbours = edge_index[1, : _num_edges(edge_index, reached)]
        if neighbours.size(0) > 0:
            reached = max(reached, int(neighbours.max()) + 1)
        counts.insert(0, reached)
    return counts


def edges_of_first(
    edge_vectors: torch.Tensor, edge_index: torch.Tensor, num_centres: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors and index of the edges of the first centres."""
    end = _num_edges(edge_index, num_centres)
    if end == edge_index.size(1):
        return edge_vectors, edge_index
    return edge_vectors[:end], edge_index[:, :end].contiguous()


def rows_of_first(
    x: torch.Tensor, sizes: list[int], num_atoms: int, num_first: int
) -> torch.Tensor:
    """Blocked features of the first atoms.

    Args:
        x: blocked features of ``num_atoms`` atoms.
        sizes: numbers per atom of each block.
        num_atoms: number of atoms in ``x``.
        num_first: number of atoms to keep.
    """
    if num_first == num_atoms:
        return x
    blocks = torch.split(x, [num_atoms * size for size in sizes])
    return torch.cat(
        [block[: num_first * size] for block, size in zip(blocks, sizes)]  # noqa: B905 - TorchScript
    )


def _num_edges(edge_index: torch.Tensor, num_centres: int) -> int:
    return int(torch.searchsorted(edge_index[0], num_centres))
