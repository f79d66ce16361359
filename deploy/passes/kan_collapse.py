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
from kan_md_deploy.passes.kan_fit import Fit, fit_layer, output_of, silu_tail
from kan_md_deploy.passes.piecewise import PiecewiseSum

MOST_OUTPUTS = 2
"""Outputs that are evaluated one by one. In plain torch three cost what the layer costs itself."""
_WIDEST_TAIL = 64.0
"""Steps of the grid over which SiLU is tabulated along; where it needs more it stays by itself."""


class CollapsedOutput(torch.nn.Module):
    """One output of a KAN layer after the pass.

    Args:
        layer: the layer it replaces, with one output.
        fit: its functions; without their SiLU part if ``silu_apart``.
        silu_apart: whether SiLU is evaluated beside the pieces.
    """

    def __init__(self, layer: KANLayer, fit: Fit, *, silu_apart: bool):
        super().__init__()
        dtype = layer.coefficients.dtype
        self.select = not bool(fit.kept.all())
        self.register_buffer("kept", fit.kept.nonzero().squeeze(1))
        self.pieces = PiecewiseSum(
            fit.coefficients[fit.kept].to(dtype),
            fit.inverse_step[fit.kept].to(dtype),
            origin=fit.origin,
        )
        self.silu_apart = silu_apart
        gain = torch.ones(layer.in_features, dtype=dtype)
        if layer.input_gain is not None:
            gain = layer.input_gain.detach().clone()
        weight = layer.base_weight.detach().t().clone() if silu_apart else gain.new_zeros(0)
        self.register_buffer("gain", gain)
        self.register_buffer("base_weight", weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate [rows, 1] for x [rows, in]."""
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
                if context.backend == "aotinductor":
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


def collapse_output(layer: KANLayer, output: int, *, bound: float) -> tuple[CollapsedOutput, Fit]:
    """Replace one output of a layer; its SiLU stays by itself where its tail is wide."""
    single = output_of(layer, output)
    exact = copy.deepcopy(single).double()
    silu_apart = silu_tail(single, bound=bound) > _WIDEST_TAIL
    if silu_apart:
        exact.base_weight = None
    fit = fit_layer(exact, bound=bound)
    return CollapsedOutput(single, fit, silu_apart=silu_apart), fit


def _narrow_layers(model: torch.nn.Module) -> list[tuple[torch.nn.Module, str, KANLayer]]:
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, KANLayer) and child.out_features <= MOST_OUTPUTS
    ]
