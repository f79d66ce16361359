"""Collapsed KAN functions are evaluated by the project's C++ operator.

The plain form of :class:`PiecewiseSum` writes a dozen intermediates of the size of its input to
memory; ``kan_md::piecewise_sum`` reads the input once and writes value and slope.
"""

from __future__ import annotations

import torch
from nequip.nn import GraphModel

from kan_md_deploy.ops.layout import pack_pieces
from kan_md_deploy.ops.library import is_built, load
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.piecewise import PiecewiseSum


class FusedPiecewiseSum(torch.nn.Module):
    """A :class:`PiecewiseSum` that calls the operator.

    Args:
        plain: the module it replaces.
    """

    def __init__(self, plain: PiecewiseSum):
        super().__init__()
        self.origin = plain.origin
        coefficients = plain.powers.t().view(plain.inverse_step.size(0), plain.num_cells, -1)
        self.register_buffer("pieces", pack_pieces(coefficients))
        self.register_buffer("inverse_step", plain.inverse_step.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate [rows, 1] for x [rows, in]."""
        value, _ = torch.ops.kan_md.piecewise_sum(x, self.pieces, self.inverse_step, self.origin)
        return value


class FusedKAN:
    """The pass; see the module. It follows ``kan_collapse``."""

    name = "fused_kan"
    needs_operators = True

    def applies_to(self, model: GraphModel, context: PassContext) -> bool:
        """Whether a KAN was collapsed and the operators were built on this machine."""
        return is_built() and any(isinstance(module, PiecewiseSum) for module in model.modules())

    def apply(self, model: GraphModel, context: PassContext) -> dict:
        """Exchange every collapsed function."""
        load()
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, PiecewiseSum):
                    setattr(parent, name, FusedPiecewiseSum(child))
        return {"bound": 0.0, "operator": "kan_md::piecewise_sum"}
