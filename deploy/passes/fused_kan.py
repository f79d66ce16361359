"""Frozen KAN layers are evaluated by the project's C++ operators.

The plain form of :class:`PiecewiseSum` writes a dozen intermediates of the size of its input to
memory; ``kan_md::piecewise_sum`` reads the input once and writes value and slope,
or the value alone where nobody differentiates.

Layers with many outputs, which ``kan_collapse`` leaves alone, are collapsed here where nobody
differentiates them: ``kan_md::piecewise_values`` finds a cell once for all outputs.
"""

from __future__ import annotations

import copy

import torch
from nequip.nn import GraphModel

from kan_md.kan.layer import KANLayer
from kan_md.ops.layout import OUTPUT_BLOCK, pack_outputs, pack_pieces
from kan_md.ops.library import is_built, load
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.kan_collapse import (
    MOST_OUTPUTS,
    CollapsedLayer,
    SideBySide,
    collapse_output,
    split_silu,
)
from kan_md_deploy.passes.kan_fit import Fit, fit_outputs, outputs_of
from kan_md_deploy.passes.piecewise import PiecewiseSum


class FusedPiecewiseSum(torch.nn.Module):
    """A :class:`PiecewiseSum` that calls the operator.

    Args:
        plain: the module it replaces.
        slopes: whether its result will be differentiated.
    """

    def __init__(self, plain: PiecewiseSum, *, slopes: bool):
        super().__init__()
        self.slopes = slopes
        self.origin = plain.origin
        coefficients = plain.powers.t().view(plain.inverse_step.size(0), plain.num_cells, -1)
        self.register_buffer("pieces", pack_pieces(coefficients))
        self.register_buffer("inverse_step", plain.inverse_step.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate [rows, 1] for x [rows, in]."""
        value, _ = torch.ops.kan_md.piecewise_sum(
            x, self.pieces, self.inverse_step, self.origin, self.slopes
        )
        return value


class FusedPiecewiseOutputs(torch.nn.Module):
    """Several outputs of a KAN layer.

    Args:
        fits: of every output, on one grid.
        dtype: of the model.
    """

    def __init__(self, fits: list[Fit], *, dtype: torch.dtype):
        super().__init__()
        self.out_features = len(fits)
        self.origin = fits[0].origin
        pieces = pack_outputs([fit.coefficients for fit in fits])
        self.register_buffer("pieces", pieces.to(dtype))
        self.register_buffer("inverse_step", fits[0].inverse_step.to(dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate [rows, out] for x [rows, in]."""
        value = torch.ops.kan_md.piecewise_values(x, self.pieces, self.inverse_step, self.origin)
        return value[:, : self.out_features]


class FusedKAN:
    """The pass; see the module. It follows ``kan_collapse``."""

    name = "fused_kan"
    needs_operators = True

    def applies_to(self, model: GraphModel, context: PassContext) -> bool:
        """Whether there is something to do, and the operators were built on this machine."""
        collapsed = any(isinstance(module, PiecewiseSum) for module in model.modules())
        return is_built() and (collapsed or bool(_wide_layers(model, context)))

    def apply(self, model: GraphModel, context: PassContext) -> dict:
        """Exchange every collapsed function, and layers with many outputs."""
        load()
        report = self._collapse_wide(model, context)
        slopes = context.kind == "potential"
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, PiecewiseSum):
                    setattr(parent, name, FusedPiecewiseSum(child, slopes=slopes))
        return {"bound": 0.0, "operator": "kan_md::piecewise_sum"} | report

    def _collapse_wide(self, model: GraphModel, context: PassContext) -> dict:
        layers = _wide_layers(model, context)
        if not layers:
            return {}
        before = copy.deepcopy(model)
        fits = []
        for parent, name, layer in layers:
            module, found = _collapse_wide(layer, bound=context.bound)
            setattr(parent, name, module)
            fits += found
        return {
            "bound": max(fit.error for fit in fits),
            "slope_bound": max(fit.slope_error for fit in fits),
            "functions": sum(layer.in_features * layer.out_features for _, _, layer in layers),
            "cells": max(fit.coefficients.size(1) for fit in fits),
            **context.change(model, before, context.graphs),
        }


def _collapse_wide(layer: KANLayer, *, bound: float) -> tuple[torch.nn.Module, list[Fit]]:
    """Blocks of outputs side by side, and a last one or two of them one by one."""
    rest = layer.out_features % OUTPUT_BLOCK
    num_wide = layer.out_features - (rest if rest <= MOST_OUTPUTS else 0)
    wide = outputs_of(layer, slice(0, num_wide))
    tabulated, silu_apart = split_silu(wide, bound=bound)
    fits = fit_outputs(tabulated, bound=bound)
    pieces = FusedPiecewiseOutputs(fits, dtype=layer.coefficients.dtype)
    every = torch.ones(layer.in_features, dtype=torch.bool)
    modules = [CollapsedLayer(wide, pieces, kept=every, silu_apart=silu_apart)]
    for output in range(num_wide, layer.out_features):
        module, fit = collapse_output(layer, output, bound=bound)
        modules.append(module)
        fits.append(fit)
    return (modules[0] if len(modules) == 1 else SideBySide(modules)), fits


def _wide_layers(
    model: torch.nn.Module, context: PassContext
) -> list[tuple[torch.nn.Module, str, KANLayer]]:
    if context.kind == "potential" or context.bound == 0:
        return []
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, KANLayer) and child.out_features > MOST_OUTPUTS
    ]
