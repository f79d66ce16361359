"""Readouts that assume what a KAN learns: a line, or a square root, shared or for every atom type.

Both are sums over scalars of functions that vanish at zero. With several types the scalars come at
the place of the atom's type, zeros elsewhere (:func:`kan_md.kan.per_type.by_type`), so that the
weights of the other types add nothing.
"""

from __future__ import annotations

import math

import torch


class LinearPerType(torch.nn.Module):
    """E = Σ_k w_zk x_k / √in_features: a linear map for each atom type z.

    Args:
        in_features: number of scalars.
        num_types: number of atom types.
        generator: of the start values, which have unit variance.
    """

    def __init__(
        self, in_features: int, num_types: int, *, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.dims = [in_features, 1]
        self.factor = 1.0 / math.sqrt(in_features)
        self.weight = torch.nn.Parameter(torch.empty(num_types, in_features))
        _draw(self.weight, generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, num_types * in_features] -> [rows, 1]."""
        return torch.mm(x, self.matrix().reshape(-1, 1))

    def matrix(self) -> torch.Tensor:
        """What multiplies the scalars of each type, [num_types, in_features]."""
        return self.weight * self.factor


class FinnisSinclair(torch.nn.Module):
    """E = Σ_k a_k x_k + b_k F(g_k x_k): what an atomic cluster expansion assumes, a square root.

        F(x) = sign(x) (√(|x| + e^(-|x|) / 4) - e^(-|x|) / 2),  F(0) = 0, F'(0) = 5/4

    for every scalar beside a line, with a, b and the gains g learned. F is a square root for large
    |x| (Finnis, Sinclair, Philos. Mag. A 1984;50:45) without its infinite slope at zero; it is odd
    and continuously differentiable. Source: Bochkarev, Lysogorskiy, Menon, Qamar, Mrovec, Drautz,
    Phys. Rev. Mater. 2022;6:013804, the form ``FinnisSinclairShiftedScaled`` of pacemaker with the
    exponent 1/2. Written without a difference of nearly equal numbers:

        F(x) = sign(x) (|x| + e (1 - e) / 4) / (√(|x| + e / 4) + e / 2),  e = e^(-|x|)

    Args:
        in_features: number of scalars.
        num_types: number of atom types with weights of their own; 1: all share them.
        generator: of the start values of a and b, which share unit variance.

    Attributes:
        line: [num_types, in_features], a times √(2 in_features).
        root: [num_types, in_features], b times the same.
        input_gain: [num_types, in_features], g; starts as 1.
    """

    def __init__(
        self, in_features: int, num_types: int = 1, *, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.dims = [in_features, 1]
        self.factor = 1.0 / math.sqrt(2.0 * in_features)
        self.line = torch.nn.Parameter(torch.empty(num_types, in_features))
        self.root = torch.nn.Parameter(torch.empty(num_types, in_features))
        self.input_gain = torch.nn.Parameter(torch.ones(num_types, in_features))
        _draw(self.line, generator)
        _draw(self.root, generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, num_types * in_features] -> [rows, 1]."""
        lines = torch.mm(x, (self.line * self.factor).reshape(-1, 1))
        roots = square_root(x * self.input_gain.reshape(-1))
        return lines + torch.mm(roots, (self.root * self.factor).reshape(-1, 1))

    def constants(self) -> torch.Tensor:
        """a, b and g, [num_types, 3, in_features] float64."""
        parts = (self.line * self.factor, self.root * self.factor, self.input_gain)
        return torch.stack([part.detach().double() for part in parts], dim=1)


def square_root(x: torch.Tensor) -> torch.Tensor:
    """F of :class:`FinnisSinclair`, any shape."""
    # A sign that is 1 at zero, so that the slope there is F'(0).
    sign = torch.where(x < 0, -torch.ones_like(x), torch.ones_like(x))
    size = x * sign
    decay = torch.exp(-size)
    above = size + 0.25 * decay * (1.0 - decay)
    return sign * above / (torch.sqrt(size + 0.25 * decay) + 0.5 * decay)


@torch.no_grad()
def _draw(weight: torch.Tensor, generator: torch.Generator | None) -> None:
    """Uniform numbers of unit variance, as the other linear maps have them."""
    weight.uniform_(-math.sqrt(3.0), math.sqrt(3.0), generator=generator)
