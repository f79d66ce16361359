"""Atoms sorted by type, so that what depends on the type is a matrix product of blocks."""

from __future__ import annotations

import torch
from nequip.data import AtomicDataDict


class AtomsByType:
    """Atoms sorted by type.

    Args:
        data: of all frames.
        num_types: of the model.

    Attributes:
        order: [num_atoms], which atom comes at each place.
        rank: [num_atoms], where each atom comes.
        types: [num_atoms], in that order.
        counts: number and count of each type that there is.
    """

    def __init__(self, data: AtomicDataDict.Type, num_types: int):
        types = data[AtomicDataDict.ATOM_TYPE_KEY].view(-1)
        self.num_types, self.num_atoms = num_types, types.numel()
        self.types, self.order = torch.sort(types, stable=True)
        places = torch.arange(self.num_atoms, device=types.device)
        self.rank = torch.empty_like(self.order).index_copy_(0, self.order, places)
        counts = torch.bincount(types, minlength=num_types).tolist()
        self.counts = [(number, count) for number, count in enumerate(counts) if count]

    def multiply(self, x: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
        """Rows x [num_atoms, rows, in] by the matrices of their types, [types, in, out]."""
        pieces = torch.split(x, [count for _, count in self.counts])
        return torch.cat(
            [
                (piece.reshape(-1, x.size(2)) @ matrices[number]).view(*piece.shape[:2], -1)
                for piece, (number, _) in zip(pieces, self.counts, strict=True)
            ]
        )

    def one_of_each(self) -> torch.Tensor:
        """[types], an atom of each type; any where there is none."""
        count = torch.bincount(self.types, minlength=self.num_types)
        first = (count.cumsum(0) - count).clamp(max=self.num_atoms - 1)
        return self.order.index_select(0, first)
