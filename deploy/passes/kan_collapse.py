"""Frozen KAN layers with one output become piecewise cubics.

Each φ_i of a layer to a scalar is a fixed function of one variable. It is replaced by the cubic
Hermite interpolant on a uniform grid, which is exact for cubic B-splines, whose knots are knots of
the grid. The grid is refined until value and slope agree with φ_i to a bound. Far outside the KAN's
own grid φ_i is a line up to the bound (linear tails; SiLU is asymptotically linear), and so is its
replacement. x = 0 is a knot: φ(0) = 0 survives bit for bit.

Functions that contribute less than the bound are dropped; what this changes is measured.

Layers with many outputs stay as they are: a matrix product over their basis functions is faster.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from nequip.nn import GraphModel

from kan_md.errors import KanMdError
from kan_md.kan.layer import KANLayer
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.piecewise import PiecewiseCubic
from kan_md_deploy.verify import deviation
from kan_md_deploy.wrapper import make_edge_model

_FEWEST_CELLS, _MOST_CELLS = 2, 512
"""Cells per step of the KAN's grid. Two: a zero-preserving B-spline has x = 0 on a knot or half-way
between two, and both must be knots of the new grid. More than the most would not fit a cache."""
_WIDEST_TAIL = 64.0
"""Steps of the grid over which SiLU is tabulated along; where it needs more it stays by itself."""


@dataclass(frozen=True)
class Fit:
    """Piecewise cubics of one layer, see :class:`PiecewiseCubic`.

    Attributes:
        coefficients: [in, num_cells, 4] float64.
        inverse_step: [in] float64.
        origin: cell that starts at x = 0.
        error: largest error of a value, relative to the largest range of a φ_i.
        slope_error: largest error of a slope, relative to the largest slope. Forces are made of
            slopes, and in a pressure their errors add up where forces cancel.
        kept: [in] bool, inputs that contribute.
    """

    coefficients: torch.Tensor
    inverse_step: torch.Tensor
    origin: int
    error: float
    slope_error: float
    kept: torch.Tensor


class CollapsedLayer(torch.nn.Module):
    """A KAN layer with one output after the pass.

    Args:
        layer: the layer it replaces.
        fit: its functions; without their SiLU part if ``silu_apart``.
        silu_apart: whether SiLU is evaluated beside the cubics.
    """

    def __init__(self, layer: KANLayer, fit: Fit, *, silu_apart: bool):
        super().__init__()
        dtype = layer.coefficients.dtype
        self.select = not bool(fit.kept.all())
        self.register_buffer("kept", fit.kept.nonzero().squeeze(1))
        self.cubics = PiecewiseCubic(
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
        y = self.cubics(torch.index_select(x, 1, self.kept) if self.select else x)
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
                collapsed.cubics.chunk_rows = 0
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
    """Replace a layer; its SiLU stays by itself where its tail is wide. See :func:`fit_layer`."""
    exact = copy.deepcopy(layer).double()
    silu_apart = silu_tail(layer, bound=bound) > _WIDEST_TAIL
    if silu_apart:
        exact.base_weight = None
    fit = fit_layer(exact, bound=bound)
    return CollapsedLayer(layer, fit, silu_apart=silu_apart), fit


def silu_tail(layer: KANLayer, *, bound: float) -> float:
    """Steps of the grid over which a layer's SiLU would be tabulated to each side; 0 without."""
    if layer.base_weight is None:
        return 0.0
    return (_silu_reach(bound) / layer.grid_step).max().item()


def fit_layer(layer: KANLayer, *, bound: float) -> Fit:
    """Piecewise cubics of a layer with one output, its SiLU part included.

    Args:
        layer: any basis.
        bound: largest error of a value, relative to the largest range of a function.

    Raises:
        KanMdError: the bound needs too fine a grid.
    """
    exact = copy.deepcopy(layer).double()
    cells = _FEWEST_CELLS
    while True:
        fit = _fit(exact, cells, bound)
        if fit.error <= bound and fit.slope_error <= bound:
            return fit
        if cells >= _MOST_CELLS:
            raise KanMdError(
                f"KAN functions as piecewise cubics, got errors of {fit.error:.1e} (value) and "
                f"{fit.slope_error:.1e} (slope) with {cells} cells per grid step; allowed: "
                f"{bound:.1e}; deploy with a larger --bound or "
                "without kan_collapse"
            )
        cells *= 2


def _scalar_layers(model: torch.nn.Module) -> list[tuple[torch.nn.Module, str, KANLayer]]:
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, KANLayer) and child.out_features == 1
    ]


def _silu_reach(bound: float) -> float:
    """|z| beyond which z sigmoid(z) is max(z, 0) to well below ``bound``."""
    return 3.0 + 1.2 * math.log(1.0 / bound)


def _fit(layer: KANLayer, cells: int, bound: float) -> Fit:
    """Hermite interpolation with a given number of cells per step of the layer's grid."""
    low, high = -layer.grid_zero, layer.steps - layer.grid_zero  # ends in steps from x = 0
    if layer.base_weight is not None:
        reach = _silu_reach(bound) / layer.grid_step
        low, high = torch.minimum(low, -reach), torch.maximum(high, reach)
    first = math.floor(low.min().item() * cells)
    last = math.ceil(high.max().item() * cells)
    gain = torch.ones_like(layer.grid_step) if layer.input_gain is None else layer.input_gain
    inverse_step = gain * cells / layer.grid_step  # cells per unit of x

    def functions(place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """φ_i and dφ_i/d(place) at places in cells from x = 0, [points, in] each."""
        with torch.enable_grad():
            z = (place.unsqueeze(1) / cells * layer.grid_step).requires_grad_(True)
            value = _without_gain(layer).univariate(z).squeeze(2)
            (slope,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), slope * layer.grid_step / cells

    knots = torch.arange(first, last + 1, dtype=torch.float64)
    value, _ = functions(knots)
    # The layer's own slope is undefined to autograd exactly at the ends of its grid.
    slope = 0.5 * (functions(knots - 1e-11)[1] + functions(knots + 1e-11)[1])
    if layer.zero_preserving:
        value[-first] = 0.0
    coefficients = _hermite(value, slope)
    # An input without gain does not contribute its function but its value at zero.
    idle = gain == 0
    coefficients[idle] = 0.0
    coefficients[idle, :, 0] = value[-first, idle].unsqueeze(1)

    scale = (value.amax(0) - value.amin(0)).max().clamp_min(1e-300)
    slope_scale = slope.abs().max().clamp_min(1e-300)
    error = slope_error = 0.0
    span = last - first
    for part in (0.21, 0.5, 0.79):
        places = torch.arange(first, last, dtype=torch.float64) + part
        beyond = torch.tensor([first - span * part, last + span * part], dtype=torch.float64)
        places = torch.cat([places, beyond])
        exact, exact_slope = functions(places)
        cell = places.floor().clamp(first - 1, last)
        u = (places - cell).unsqueeze(1)
        c = coefficients[:, (cell - first + 1).long()].transpose(0, 1)  # [points, in, 4]
        found = c[..., 0] + u * (c[..., 1] + u * (c[..., 2] + u * c[..., 3]))
        found_slope = c[..., 1] + u * (2 * c[..., 2] + 3 * u * c[..., 3])
        wrong, wrong_slope = (found - exact).abs(), (found_slope - exact_slope).abs()
        error = max(error, (wrong[:, ~idle] / scale).max().item())
        slope_error = max(slope_error, (wrong_slope[:, ~idle] / slope_scale).max().item())
    spread = value.amax(0) - value.amin(0)
    return Fit(
        coefficients=coefficients,
        inverse_step=inverse_step.detach(),
        origin=1 - first,
        error=error,
        slope_error=slope_error,
        kept=~((spread <= bound * scale) & (value[-first] == 0.0)),
    )


def _without_gain(layer: KANLayer) -> KANLayer:
    bare = copy.copy(layer)
    bare._parameters = dict(layer._parameters, input_gain=None)
    return bare


def _hermite(value: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Cubics [in, num_knots + 1, 4] between knots, lines before the first and after the last.

    Args:
        value: [num_knots, in].
        slope: [num_knots, in], per cell.
    """
    rise = value[1:] - value[:-1]
    inner = torch.stack(
        [
            value[:-1],
            slope[:-1],
            3 * rise - 2 * slope[:-1] - slope[1:],
            slope[:-1] + slope[1:] - 2 * rise,
        ],
        dim=-1,
    )  # [cells, in, 4]
    nothing = torch.zeros_like(value[0])
    # The first cell ends at the first knot, where its place is one.
    before = torch.stack([value[0] - slope[0], slope[0], nothing, nothing], dim=-1)
    after = torch.stack([value[-1], slope[-1], nothing, nothing], dim=-1)
    return torch.cat([before.unsqueeze(0), inner, after.unsqueeze(0)]).transpose(0, 1).contiguous()
