"""Frozen KAN layers with one output become piecewise polynomials.

Each φ_i of a layer to a scalar is a fixed function of one variable, and is replaced by pieces that
agree with it to a bound, see :mod:`kan_md_deploy.passes.kan_fit`. Functions that contribute less
than the bound are dropped; what this changes is measured.

Layers with many outputs stay as they are: a matrix product over their basis functions is faster.
"""

from __future__ import annotations

import copy

import torch
from nequip.nn import GraphModel

from kan_md.kan.layer import KANLayer
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.kan_fit import Fit, fit_layer, silu_tail
from kan_md_deploy.passes.piecewise import PiecewiseSum
from kan_md_deploy.verify import deviation
from kan_md_deploy.wrapper import make_edge_model

_WIDEST_TAIL = 64.0
"""Steps of the grid over which SiLU is tabulated along; where it needs more it stays by itself."""


class CollapsedLayer(torch.nn.Module):
    """A KAN layer with one output after the pass.

    Args:
        layer: the layer it replaces.
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


class KANCollapse:
    """The pass; see the module."""

    name = "kan_collapse"
    needs_operators = False

    def applies_to(self, model: GraphModel, context: PassContext) -> bool:
        """Whether there is a KAN layer with one output, and approximation is allowed."""
        return context.bound > 0 and bool(_scalar_layers(model))

    def apply(self, model: GraphModel, context: PassContext) -> dict:
        """Exchange every such layer."""
        before = make_edge_model(copy.deepcopy(model))
        error = slope_error = 0.0
        functions = dropped = cells = 0
        for parent, name, layer in _scalar_layers(model):
            collapsed, fit = collapse_layer(layer, bound=context.bound)
            if context.backend == "aotinductor":
                collapsed.pieces.chunk_rows = 0
            setattr(parent, name, collapsed)
            error, slope_error = max(error, fit.error), max(slope_error, fit.slope_error)
            functions += layer.in_features
            dropped += layer.in_features - int(fit.kept.sum())
            cells = max(cells, fit.coefficients.size(1))
        changed = deviation(make_edge_model(model), before, list(context.graphs))
        return {
            "bound": error,
            "slope_bound": slope_error,
            "functions": functions,
            "dropped": dropped,
            "cells": cells,
            "energy_change": changed.energy,
            "force_change": changed.force,
        }


def collapse_layer(layer: KANLayer, *, bound: float) -> tuple[CollapsedLayer, Fit]:
    """Replace a layer; its SiLU stays by itself where its tail is wide."""
    exact = copy.deepcopy(layer).double()
    silu_apart = silu_tail(layer, bound=bound) > _WIDEST_TAIL
    if silu_apart:
        exact.base_weight = None
    fit = fit_layer(exact, bound=bound)
    return CollapsedLayer(layer, fit, silu_apart=silu_apart), fit


def _scalar_layers(model: torch.nn.Module) -> list[tuple[torch.nn.Module, str, KANLayer]]:
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, KANLayer) and child.out_features == 1
    ]
