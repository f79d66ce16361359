"""The edges of a graph, each pair of atoms once.

An edge i -> j and the edge j -> i have the same length, and spherical harmonics that differ by
(-1)^l. What belongs to a pair alone, such as a radial network, is evaluated for one of the two.
"""

from __future__ import annotations

import torch
from e3nn.o3 import Irreps
from nequip.data import AtomicDataDict

PAIRS_KEY = "kan_md_pairs"
"""Of :class:`HalfEdges` in a dictionary."""


class HalfEdges:
    """Edges of one direction, and all edges in an order of our own: those, then the same turned.

    Args:
        data: a graph; where it gives vectors, or where an edge has no counterpart, all edges are
            taken as they are.
        symmetric: whether what belongs to a pair is the same from either end; all edges are taken
            where it is not.

    Attributes:
        kept: [num_pairs], numbers of the edges that are evaluated.
        centre: [num_edges] in the new order.
        neighbour: [num_edges] in the new order.
        paired: whether the second half of the edges is the first one turned round.
        vectors: [num_pairs, 3] of the edges that are evaluated, Å; None where they are to be made
            of positions and cell.
    """

    def __init__(self, data: AtomicDataDict.Type, *, symmetric: bool = True):
        index, kept = data[AtomicDataDict.EDGE_INDEX_KEY], None
        if symmetric and AtomicDataDict.EDGE_VECTORS_KEY not in data:
            kept = _one_direction(data, index)
        self.paired = kept is not None
        self.vectors: torch.Tensor | None = None
        self.kept = torch.arange(index.size(1), device=index.device) if kept is None else kept
        one = index if kept is None else index.index_select(1, kept)
        self.centre, self.neighbour = torch.cat([one, one.flip(0)], 1) if self.paired else one

    @property
    def index(self) -> torch.Tensor:
        """[2, num_pairs], ends of the edges that are evaluated."""
        count = self.kept.numel()
        return torch.stack([self.centre[:count], self.neighbour[:count]])

    def complete(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """The graph for those that see all edges."""
        if self.vectors is None:
            return data
        v = self.vectors
        return data | {
            AtomicDataDict.EDGE_INDEX_KEY: torch.stack([self.centre, self.neighbour]),
            AtomicDataDict.EDGE_VECTORS_KEY: torch.cat([v, -v]) if self.paired else v,
        }

    def evaluated(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """The graph of the edges that are evaluated."""
        given = {} if self.vectors is None else {AtomicDataDict.EDGE_VECTORS_KEY: self.vectors}
        if not self.paired:
            return data | given
        fields = (
            AtomicDataDict.POSITIONS_KEY,
            AtomicDataDict.CELL_KEY,
            AtomicDataDict.BATCH_KEY,
            AtomicDataDict.NUM_NODES_KEY,
            AtomicDataDict.ATOM_TYPE_KEY,
        )
        half = {field: data[field] for field in fields if field in data}
        half[AtomicDataDict.EDGE_INDEX_KEY] = self.index
        shift = AtomicDataDict.EDGE_CELL_SHIFT_KEY
        if shift in data and self.vectors is None:
            half[shift] = data[shift].index_select(0, self.kept)
        return half | given

    def of_all(self, x: torch.Tensor) -> torch.Tensor:
        """[num_pairs, width] to [num_edges, width]."""
        return torch.cat([x, x]) if self.paired else x

    def harmonics(self, harmonics: torch.Tensor, irreps: Irreps) -> torch.Tensor:
        """Harmonics of all edges from those that were evaluated: Y_l(-r) = (-1)^l Y_l(r).

        Args:
            harmonics: [num_pairs, components].
            irreps: of the components.
        """
        if not self.paired:
            return harmonics
        signs = torch.tensor([(-1.0) ** ir.l for _, ir in irreps for _ in range(ir.dim)])
        return torch.cat([harmonics, harmonics * signs.to(harmonics)])


def _one_direction(data: AtomicDataDict.Type, index: torch.Tensor) -> torch.Tensor | None:
    """One edge of each pair; None where some edge has no counterpart."""
    if index.size(1) == 0:
        return None
    first, second = index
    num_atoms = AtomicDataDict.num_nodes(data)
    forth, back = first * num_atoms + second, second * num_atoms + first
    if AtomicDataDict.EDGE_CELL_SHIFT_KEY in data:
        shift = data[AtomicDataDict.EDGE_CELL_SHIFT_KEY].detach().round().to(torch.int64)
        base = 2 * shift.abs().max() + 1
        image = (shift[:, 0] * base + shift[:, 1]) * base + shift[:, 2]  # odd in the shift
        forth, back = forth * base**3 + image, back * base**3 - image
    chosen = forth < back
    kept, others = chosen.nonzero().view(-1), chosen.logical_not().nonzero().view(-1)
    if kept.numel() != others.numel():
        return None
    counterparts = back.index_select(0, others).sort()[0]
    return kept if torch.equal(forth.index_select(0, kept).sort()[0], counterparts) else None
