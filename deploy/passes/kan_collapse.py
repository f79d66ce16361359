"""Frozen KAN layers become piecewise polynomials.

Each φ_oi of a layer is a fixed function of one variable, and is replaced by pieces that agree with
it to a bound, see :mod:`kan_md_deploy.passes.tables.kan_fit`. Functions that contribute less than
the bound are dropped; what this changes is measured. The pieces are evaluated by the project's
operators, or in plain torch where a file must do without.

Layers with many outputs stay as they are where somebody differentiates them, and in plain torch: a
matrix product over their basis functions is faster.
"""

from __future__ import annotations

import copy
import dataclasses

import torch
from nequip.nn import GraphModel

from kan_md.kan.layer import KANLayer
from kan_md.ops import is_built
from kan_md.ops.layout import OUTPUT_BLOCK
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.tables.kan_fit import (
    WIDEST_TAIL,
    Fit,
    fit_layer,
    fit_outputs,
    outputs_of,
    silu_tail,
)
from kan_md_deploy.passes.tables.piecewise_sum import (
    FusedPiecewiseOutputs,
    FusedPiecewiseSum,
    PiecewiseSum,
)

MOST_OUTPUTS = 2
"""Outputs that are evaluated one by one. In plain torch three cost what the layer costs itself."""


class CollapsedLayer(torch.nn.Module):
    """A KAN layer after the pass.

    Args:
        layer: the layer it replaces.
        pieces: its functions; without their SiLU part if ``silu_apart``.
        kept: [in] bool, inputs that ``pieces`` takes.
        silu_apart: whether SiLU is evaluated beside the pieces.
    """

    def __init__(
        self,
        layer: KANLayer,
        pieces: torch.nn.Module,
        *,
        kept: torch.Tensor,
        silu_apart: bool,
    ):
        super().__init__()
        self.select = not bool(kept.all())
        self.register_buffer("kept", kept.nonzero().squeeze(1))
        self.pieces = pieces
        self.silu_apart = silu_apart
        gain = torch.ones(layer.in_features, dtype=layer.coefficients.dtype)
        if layer.input_gain is not None:
            gain = layer.input_gain.detach().clone()
        weight = layer.base_weight.detach().t().clone() if silu_apart else gain.new_zeros(0)
        self.register_buffer("gain", gain)
        self.register_buffer("base_weight", weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate [rows, out] for x [rows, in]."""
        y = self.pieces(torch.index_select(x, 1, self.kept) if self.select else x)
        if self.silu_apart:
            y = y + torch.mm(torch.nn.functional.silu(x * self.gain), self.base_weight)
        return y


class SideBySide(torch.nn.Module):
    """Functions of the same rows, their outputs as columns.

    Args:
        parts: [rows, in] -> [rows, any] each.
    """

    def __init__(self, parts: list[torch.nn.Module]):
        super().__init__()
        self.parts = torch.nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate [rows, out] for x [rows, in]."""
        columns: list[torch.Tensor] = []
        for part in self.parts:
            columns.append(part(x))
        return torch.cat(columns, dim=1)


class KANCollapse:
    """The pass; see the module."""

    name = "kan_collapse"
    kinds = ("potential", "tensor")
    needs_operators = False

    def applies_to(self, model: GraphModel, context: PassContext) -> bool:
        """Whether there is a layer to exchange, and approximation is allowed."""
        return context.bound > 0 and bool(_layers(model, context))

    def apply(self, model: GraphModel, context: PassContext) -> dict:
        """Exchange every such layer."""
        before = copy.deepcopy(model)
        layers = _layers(model, context)
        fits: list[Fit] = []
        for parent, name, layer in layers:
            modules, found = _collapse(layer, context)
            setattr(parent, name, modules[0] if len(modules) == 1 else SideBySide(modules))
            fits += found
        report = {
            "bound": max(fit.error for fit in fits),
            "slope_bound": max(fit.slope_error for fit in fits),
            "functions": sum(layer.in_features * layer.out_features for _, _, layer in layers),
            "dropped": sum(int((~fit.kept).sum()) for fit in fits),
            "cells": max(fit.coefficients.size(1) for fit in fits),
        }
        if _on_operators(context):
            report["operator"] = "kan_md::piecewise_sum"
        return report | context.task.change(model, before, context.graphs)


def _on_operators(context: PassContext) -> bool:
    return context.operators == "fused" and is_built()


def _layers(
    model: torch.nn.Module, context: PassContext
) -> list[tuple[torch.nn.Module, str, KANLayer]]:
    """(parent, name, layer) of the layers that this pass exchanges."""
    wide_too = _on_operators(context) and not context.task.is_differentiated
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, KANLayer) and (wide_too or child.out_features <= MOST_OUTPUTS)
    ]


def _collapse(layer: KANLayer, context: PassContext) -> tuple[list[torch.nn.Module], list[Fit]]:
    """Modules that take a layer's place side by side, and their fits.

    Blocks of outputs come first; the last one or two are evaluated one by one.
    """
    modules: list[torch.nn.Module] = []
    fits: list[Fit] = []
    num_wide = 0
    if layer.out_features > MOST_OUTPUTS:
        rest = layer.out_features % OUTPUT_BLOCK
        num_wide = layer.out_features - (rest if rest <= MOST_OUTPUTS else 0)
        module, fits = _collapse_wide(outputs_of(layer, slice(0, num_wide)), context)
        modules.append(module)
    for output in range(num_wide, layer.out_features):
        module, fit = _collapse_one(outputs_of(layer, slice(output, output + 1)), context)
        modules.append(module)
        fits.append(fit)
    return modules, fits


def _collapse_one(layer: KANLayer, context: PassContext) -> tuple[CollapsedLayer, Fit]:
    """Replace a layer with one output."""
    tabulated, silu_apart = _split_silu(layer, bound=context.bound)
    fit = fit_layer(tabulated, bound=context.bound)
    dtype = layer.coefficients.dtype
    coefficients = fit.coefficients[fit.kept].to(dtype)
    inverse_step = fit.inverse_step[fit.kept].to(dtype)
    if _on_operators(context):
        slopes = context.task.is_differentiated
        pieces = FusedPiecewiseSum(coefficients, inverse_step, origin=fit.origin, slopes=slopes)
    else:
        pieces = PiecewiseSum(coefficients, inverse_step, origin=fit.origin)
        if context.static_shapes:
            pieces.chunk_rows = 0
    return CollapsedLayer(layer, pieces, kept=fit.kept, silu_apart=silu_apart), fit


def _collapse_wide(layer: KANLayer, context: PassContext) -> tuple[CollapsedLayer, list[Fit]]:
    """Replace a layer with a block of outputs."""
    tabulated, silu_apart = _split_silu(layer, bound=context.bound)
    fits = fit_outputs(tabulated, bound=context.bound)
    pieces = FusedPiecewiseOutputs(fits, dtype=layer.coefficients.dtype)
    # A cell is found once for all outputs, so that no input is left out.
    every = torch.ones(layer.in_features, dtype=torch.bool)
    fits = [dataclasses.replace(fit, kept=every) for fit in fits]
    return CollapsedLayer(layer, pieces, kept=every, silu_apart=silu_apart), fits


def _split_silu(layer: KANLayer, *, bound: float) -> tuple[KANLayer, bool]:
    """What to tabulate of a layer, and whether its SiLU stays apart: where its tail is wide."""
    silu_apart = silu_tail(layer, bound=bound) > WIDEST_TAIL
    tabulated = copy.deepcopy(layer)
    if silu_apart:
        tabulated.base_weight = None
    return tabulated, silu_apart
