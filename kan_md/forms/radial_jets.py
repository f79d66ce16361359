"""Networks of the length with their slopes: values and derivatives by the length side by side.

Both take the same matrix products, one below the other. Their gradients by the weights are all that
training needs of a network of the length, where :mod:`kan_md.forms.expansion` reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kan_md.errors import KanMdError
from kan_md.forms.edge_functions import THIRD_DERIVATIVES


class _SiLUOfJets(torch.autograd.Function):
    """(z, z') -> (s(z), s'(z) z') for [2, ...], by the operator."""

    @staticmethod
    def forward(ctx, z):
        z = z.contiguous()
        ctx.save_for_backward(z)
        return torch.ops.kan_md.silu_jets(z)

    @staticmethod
    def backward(ctx, grad):
        if torch.is_grad_enabled():
            raise KanMdError(THIRD_DERIVATIVES)
        (z,) = ctx.saved_tensors
        return torch.ops.kan_md.silu_jets_backward(grad.contiguous(), z)


def network_of_jets(x: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Matrices with SiLUs between them, [2, rows, in] to [2, rows, out]."""
    for number, weight in enumerate(weights):
        x = _SiLUOfJets.apply(x) if number else x
        x = (x.reshape(-1, x.size(2)) @ weight).view(2, -1, weight.size(1))
    return x


def jets_of(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Values and slopes [2, rows, out] of a function of each of x [rows, 1]."""
    return torch.stack(torch.func.jvp(function, (x,), (torch.ones_like(x),)))


def curves_of(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Second derivatives [rows, out] of a function of each of x [rows, 1]."""
    one = torch.ones_like(x)

    def slope(x: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(function, (x,), (one,))[1]

    return torch.func.jvp(slope, (x,), (one,))[1]
