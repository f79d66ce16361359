"""Spherical harmonics of unit vectors with few operations."""

from __future__ import annotations

from functools import cache

import torch
from e3nn.o3 import Irreps, SphericalHarmonics, spherical_harmonics


class HarmonicsChain(torch.nn.Module):
    """Real spherical harmonics Y_0 .. Y_lmax of unit vectors, e3nn's order and normalisation.

    Y_l is linear in Y_{l-1} ⊗ Y_1, so each degree is one outer product and one small matrix
    product. The matrices follow from least squares on random directions, exact to rounding.

    Args:
        l_max: highest degree.
        dtype: of the result.
        device: of the vectors; the processor where None.
    """

    def __init__(self, l_max: int, *, dtype: torch.dtype, device: torch.device | None = None):
        super().__init__()
        self.steps = torch.nn.ModuleList(
            _Raise(matrix.to(device, dtype)) for matrix in raising_matrices(l_max)
        )
        self.register_buffer("one", torch.ones(1, 1, dtype=dtype, device=device))

    def forward(self, unit: torch.Tensor) -> torch.Tensor:
        """Evaluate [num_edges, (l_max + 1)²] for unit vectors [num_edges, 3]."""
        lower = self.one.expand(unit.size(0), 1)
        pieces = [lower]
        for raise_degree in self.steps:
            lower = raise_degree(lower, unit)
            pieces.append(lower)
        return torch.cat(pieces, dim=1)


@cache
def raising_matrices(l_max: int) -> tuple[torch.Tensor, ...]:
    """Y_(l-1) ⊗ Y_1 -> Y_l for l = 1 .. l_max, [3 (2 l - 1), 2 l + 1] float64 each."""
    matrices = []
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(64 * (l_max + 1), 3, generator=generator, dtype=torch.float64)
    unit = torch.nn.functional.normalize(points, dim=1)
    lower = torch.ones(len(unit), 1, dtype=torch.float64)
    for degree in range(1, l_max + 1):
        exact = spherical_harmonics(degree, unit, normalize=True, normalization="component")
        outer = (lower.unsqueeze(2) * unit.unsqueeze(1)).flatten(1)
        matrices.append(torch.linalg.lstsq(outer, exact, driver="gelsd").solution)
        lower = exact
    return tuple(matrices)


class _Raise(torch.nn.Module):
    def __init__(self, matrix: torch.Tensor):
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, lower: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
        outer = lower.unsqueeze(2) * unit.unsqueeze(1)
        return torch.mm(outer.flatten(1), self.matrix)


def is_plain_harmonics(module: SphericalHarmonics) -> bool:
    """Whether a module is what :class:`HarmonicsChain` computes."""
    irreps = module.irreps_out
    l_max = irreps.lmax
    return (
        irreps == Irreps.spherical_harmonics(l_max, p=-1)
        and module.normalize
        and module.normalization == "component"
    )
