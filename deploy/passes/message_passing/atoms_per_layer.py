"""How far each layer of message passing has to compute, given that only local atoms count.

Atoms come in the order in which a walk from the local atoms meets them, so that every layer needs
a first part of them: the last layer the local atoms, the one before it also their neighbours, and
so on. The convolution operators leave the other centres out. What follows them is done for rows of
atoms, and there a compiler decides: see :func:`kept_rows`. Where all atoms are local these
functions change nothing and cost little.

On several ranks of LAMMPS features of the other atoms may come from the ranks that own them
(``kan_md::exchange``): then every layer computes the local atoms alone.
"""

from __future__ import annotations

import torch


def centres_per_layer(
    edge_index: torch.Tensor, num_local: torch.Tensor, num_layers: int
) -> list[torch.Tensor]:
    """How many of the first atoms each layer computes, first layer first, int64 [1] each.

    Args:
        edge_index: [2, num_edges], sorted by centre.
        num_local: [1] number of local atoms.
        num_layers: number of layers.
    """
    counts = [num_local]
    computed = 1 - torch.ops.kan_md.exchanging(num_local)  # whether ghosts are
    for _ in range(num_layers - 1):
        reached = counts[0]
        of_neighbours = (edge_index[1] + 1) * (edge_index[0] < reached)
        furthest = torch.cat([reached, of_neighbours]).max().view(1)
        counts.insert(0, reached + (furthest - reached) * computed)
    return counts


class FirstRows(torch.nn.Module):
    """A layer keeps the rows of the atoms that it computes: shapes depend on data."""

    def forward(self, num_centres: torch.Tensor, num_atoms: int) -> int:
        """How many of the first ``num_atoms`` atoms keep their rows."""
        return int(num_centres)


class AllRows(torch.nn.Module):
    """A layer keeps all rows; those of atoms that it does not compute are without meaning."""

    def forward(self, num_centres: torch.Tensor, num_atoms: int) -> int:
        """How many of the first ``num_atoms`` atoms keep their rows."""
        return num_atoms


def kept_rows(*, static_shapes: bool) -> torch.nn.Module:
    """The fewest rows that a layer can keep where shapes may depend on data, or may not."""
    return AllRows() if static_shapes else FirstRows()


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
