"""Frozen KAN layers with few outputs become piecewise polynomials.

Each φ_oi of a layer is a fixed function of one variable, and is replaced by pieces that agree with
it to a bound, see :mod:`kan_md_deploy.passes.kan_fit`. Functions that contribute less than the
bound are dropped; what this changes is measured.

Layers with many outputs stay as they are: a matrix product over their basis functions is faster.
"""

from __future__ import annotations

import copy

import torch
from nequip.nn import GraphModel

from kan_md.kan.layer import KANLayer
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.kan_fit import Fit, fit_layer, outputs_of, silu_tail
from kan_md_deploy.passes.piecewise import PiecewiseSum

MOST_OUTPUTS = 2
"""Outputs that are evaluated one by one. In plain torch three cost what the layer costs itself."""
_WIDEST_TAIL = 64.0
"""Steps of the grid over which SiLU is tabulated along; where it needs more it stays by itself."""


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
    needs_operators = False

    def applies_to(self, model: GraphModel, context: PassContext) -> bool:
        """Whether there is a KAN layer with few outputs, and approximation is allowed."""
        return context.bound > 0 and bool(_narrow_layers(model))

    def apply(self, model: GraphModel, context: PassContext) -> dict:
        """Exchange every such layer."""
        before = copy.deepcopy(model)
        error = slope_error = 0.0
        functions = dropped = cells = 0
        for parent, name, layer in _narrow_layers(model):
            collapsed = [
                collapse_output(layer, output, bound=context.bound)
                for output in range(layer.out_features)
            ]
            for module, fit in collapsed:
                if context.static_shapes:
                    module.pieces.chunk_rows = 0
                error, slope_error = max(error, fit.error), max(slope_error, fit.slope_error)
                functions += layer.in_features
                dropped += layer.in_features - int(fit.kept.sum())
                cells = max(cells, fit.coefficients.size(1))
            modules = [module for module, _ in collapsed]
            setattr(parent, name, modules[0] if len(modules) == 1 else SideBySide(modules))
        return {
            "bound": error,
            "slope_bound": slope_error,
            "functions": functions,
            "dropped": dropped,
            "cells": cells,
            **context.change(model, before, context.graphs),
        }


def collapse_output(layer: KANLayer, output: int, *, bound: float) -> tuple[CollapsedLayer, Fit]:
    """Replace one output of a layer."""
    single = outputs_of(layer, slice(output, output + 1))
    tabulated, silu_apart = split_silu(single, bound=bound)
    fit = fit_layer(tabulated, bound=bound)
    dtype = layer.coefficients.dtype
    pieces = PiecewiseSum(
        fit.coefficients[fit.kept].to(dtype),
        fit.inverse_step[fit.kept].to(dtype),
        origin=fit.origin,
    )
    return CollapsedLayer(single, pieces, kept=fit.kept, silu_apart=silu_apart), fit


def split_silu(layer: KANLayer, *, bound: float) -> tuple[KANLayer, bool]:
    """What to tabulate of a layer, and whether its SiLU stays apart: where its tail is wide."""
    silu_apart = silu_tail(layer, bound=bound) > _WIDEST_TAIL
    tabulated = copy.deepcopy(layer)
    if silu_apart:
        tabulated.base_weight = None
    return tabulated, silu_apart


def _narrow_layers(model: torch.nn.Module) -> list[tuple[torch.nn.Module, str, KANLayer]]:
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, KANLayer) and child.out_features <= MOST_OUTPUTS
    ]
