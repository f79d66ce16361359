"""Small layers shared by the blocks. All give f(0) = 0, so nothing leaks past an envelope."""

from __future__ import annotations

from math import sqrt

import torch


def linear(in_features: int, out_features: int) -> torch.nn.Linear:
    """Bias-free linear map that keeps the variance of independent inputs."""
    layer = torch.nn.Linear(in_features, out_features, bias=False)
    with torch.no_grad():
        layer.weight.normal_(0.0, 1.0 / sqrt(in_features))
    return layer


class Residual(torch.nn.Module):
    """x + W₂ σ(W₁ x)."""

    def __init__(self, features: int):
        super().__init__()
        self.inner = linear(features, features)
        self.outer = linear(features, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., features] -> the same."""
        return x + self.outer(torch.nn.functional.silu(self.inner(x)))


class UpProjection(torch.nn.Module):
    """The dense up-projection of ETGNN, σ(W x)."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.linear = linear(in_features, out_features)
        self.dims = [in_features, out_features]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in_features] -> [..., out_features]."""
        return torch.nn.functional.silu(self.linear(x))


def sum_to(values: torch.Tensor, index: torch.Tensor, size: int) -> torch.Tensor:
    """Sum rows of ``values`` [n, ...] that share an ``index`` [n] into [size, ...]."""
    shape = list(values.shape)
    shape[0] = size
    out = torch.zeros(shape, dtype=values.dtype, device=values.device)
    return out.index_add(0, index, values)
