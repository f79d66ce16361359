"""A KAN of its own for every atom type."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kan_md.kan.network import KAN


class PerTypeKAN(torch.nn.Module):
    """f(x; z) = f_z(x W): the KAN of the type z, of the scalars or of combinations of them.

    The type comes in as the place of the scalars among zeros, see :func:`by_type`. Zero-preserving
    KANs give exactly zero for the types that an atom is not of, so that their sum is the one of its
    own type, without a choice of rows that a compiled graph could not hold.

    Args:
        kans: zero-preserving, one per type, of equal widths.
        projection: W, shared by all types; None for the scalars themselves.
    """

    def __init__(self, kans: Sequence[KAN], projection: torch.nn.Module | None = None):
        super().__init__()
        assert all(layer.zero_preserving for kan in kans for layer in kan.layers)
        self.kans = torch.nn.ModuleList(kans)
        self.projection = projection
        self.num_types = len(kans)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, num_types * in_features] -> [rows, out_features]."""
        y = torch.zeros(1, dtype=x.dtype, device=x.device)
        parts = torch.chunk(x, self.num_types, dim=1)
        for number, kan in enumerate(self.kans):
            part = parts[number]
            if self.projection is not None:
                part = self.projection(part)
            y = y + kan(part)
        return y


def by_type(x: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
    """X ⊗ one_hot: the scalars at the place of the type, zeros elsewhere.

    Args:
        x: [rows, in_features].
        one_hot: [rows, num_types], types.

    Returns:
        [rows, num_types * in_features].
    """
    return (one_hot.unsqueeze(2) * x.unsqueeze(1)).flatten(1)
