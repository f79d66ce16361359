"""Piecewise polynomials that agree with the functions of a frozen KAN layer.

Every cell of a uniform grid holds the quintic that has φ's value, slope and curvature at both of
its ends, each taken from inside the cell. This is exact for B-splines of any order, whose knots are
knots of the grid; for other functions the grid is refined until value and slope agree to a bound.
Far outside the KAN's own grid φ is a line up to the bound (linear tails; SiLU is asymptotically
linear), and so is its replacement. x = 0 is a knot: φ(0) = 0 survives bit for bit.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch

from kan_md.errors import KanMdError
from kan_md.kan.layer import KANLayer
from kan_md.ops.quintics import hermite_powers, monomials

_FEWEST_CELLS, _MOST_CELLS = 2, 512
"""Cells per step of the KAN's grid. Two: a zero-preserving B-spline has x = 0 on a knot or half-way
between two, and both must be knots of the new grid. More than the most would not fit a cache."""
_INSIDE = 1e-9
"""How far inside a cell, in cells, the derivatives at its ends are taken."""


@dataclass(frozen=True)
class Fit:
    """What :class:`kan_md_deploy.passes.tables.piecewise_sum.PiecewiseSum` takes, for one output.

    Attributes:
        coefficients: [in, num_cells, 6] float64.
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


def fit_layer(layer: KANLayer, *, bound: float) -> Fit:
    """Piecewise polynomials of a layer with one output; see :func:`fit_outputs`."""
    (fit,) = fit_outputs(layer, bound=bound)
    return fit


def fit_outputs(layer: KANLayer, *, bound: float) -> list[Fit]:
    """Piecewise polynomials of every output of a layer, its SiLU part included, on one grid.

    Args:
        layer: any basis.
        bound: largest error of a value, relative to the largest range of an output's functions.

    Raises:
        KanMdError: the bound needs too fine a grid.
    """
    functions = [
        _Functions(outputs_of(layer, slice(output, output + 1)))
        for output in range(layer.out_features)
    ]
    cells = _FEWEST_CELLS
    while True:
        fits = []
        for output in functions:
            fit = _fit(output, cells, bound)
            if fit.error > bound or fit.slope_error > bound:
                break  # this grid is too coarse for one of them
            fits.append(fit)
        else:
            return fits
        if cells >= _MOST_CELLS:
            raise KanMdError(
                f"KAN functions as piecewise polynomials, got errors of {fit.error:.1e} (value) "
                f"and {fit.slope_error:.1e} (slope) with {cells} cells per grid step; allowed: "
                f"{bound:.1e}; deploy with a larger --bound or without kan_collapse"
            )
        cells *= 2


def outputs_of(layer: KANLayer, chosen: slice) -> KANLayer:
    """Some outputs of a layer, as a layer."""
    part = copy.deepcopy(layer)
    part.coefficients = torch.nn.Parameter(layer.coefficients.detach()[chosen].clone())
    if layer.base_weight is not None:
        part.base_weight = torch.nn.Parameter(layer.base_weight.detach()[chosen].clone())
    part.out_features = part.coefficients.size(0)
    return part


def silu_tail(layer: KANLayer, *, bound: float) -> float:
    """Steps of the grid over which a layer's SiLU would be tabulated to each side; 0 without."""
    if layer.base_weight is None:
        return 0.0
    return (_silu_end(bound) / layer.grid_step).max().item()


def _silu_end(bound: float) -> float:
    """|z| beyond which z sigmoid(z) is max(z, 0) to well below ``bound``."""
    return 3.0 + 1.2 * math.log(1.0 / bound)


class _Functions:
    """The φ_i of a layer in float64 against the place on its own grid, counted from x = 0."""

    def __init__(self, layer: KANLayer):
        self.layer = copy.deepcopy(layer).double()
        gain = self.layer.input_gain
        step = self.layer.grid_step
        self.gain = torch.ones_like(step) if gain is None else gain.detach().clone()
        self.layer.input_gain = None

    def __call__(self, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """φ_i, its slope and curvature at places in steps, [points, in] each."""
        with torch.enable_grad():
            place = steps.unsqueeze(1).expand(-1, self.layer.in_features).clone()
            place.requires_grad_(True)
            value = self.layer.univariate(place * self.layer.grid_step).squeeze(2)
            (slope,) = torch.autograd.grad(value.sum(), place, create_graph=True)
            (curvature,) = torch.autograd.grad(slope.sum(), place, materialize_grads=True)
        return value.detach(), slope.detach(), curvature


def _fit(functions: _Functions, cells: int, bound: float) -> Fit:
    """Interpolation with a given number of cells per step of the layer's grid."""
    layer, gain = functions.layer, functions.gain
    low, high = -layer.grid_zero, layer.steps - layer.grid_zero  # ends in steps from x = 0
    if layer.base_weight is not None:
        end = _silu_end(bound) / layer.grid_step
        low, high = torch.minimum(low, -end), torch.maximum(high, end)
    first = math.floor(low.min().item() * cells)
    last = math.ceil(high.max().item() * cells)

    knots = torch.arange(first, last + 1, dtype=torch.float64)
    value = functions(knots / cells)[0]
    if layer.zero_preserving:
        value[-first] = 0.0
    left = _end(functions, value[:-1], knots[:-1], _INSIDE, cells)
    right = _end(functions, value[1:], knots[1:], -_INSIDE, cells)
    inner = hermite_powers(left, right)  # [cells, 6, in]
    before, after = torch.zeros_like(inner[:1]), torch.zeros_like(inner[:1])
    # Lines. The first cell ends at the first knot, where its place is one.
    before[0, :2] = torch.stack([left[0, 0] - left[0, 1], left[0, 1]])
    after[0, :2] = right[-1, :2]
    coefficients = torch.cat([before, inner, after]).permute(2, 0, 1).contiguous()
    # An input without gain does not contribute its function but its value at zero.
    idle = gain == 0
    coefficients[idle] = 0.0
    coefficients[idle, :, 0] = value[-first, idle].unsqueeze(1)

    spread = value.amax(0) - value.amin(0)
    scale = spread.max().clamp_min(1e-300)
    error, slope_error = _errors(functions, coefficients[~idle], first, cells, scale, ~idle)
    return Fit(
        coefficients=coefficients,
        inverse_step=gain * cells / layer.grid_step,
        origin=1 - first,
        error=error,
        slope_error=slope_error,
        kept=~((spread <= bound * scale) & (value[-first] == 0.0)),
    )


def _end(
    functions: _Functions, value: torch.Tensor, knots: torch.Tensor, inside: float, cells: int
) -> torch.Tensor:
    """Value, slope and curvature at one end of every cell, per cell: [cells, 3, in]."""
    _, slope, curvature = functions((knots + inside) / cells)
    slope, curvature = slope / cells, curvature / cells**2
    return torch.stack([value, slope - inside * curvature, curvature], dim=1)


def _errors(
    functions: _Functions,
    coefficients: torch.Tensor,
    first: int,
    cells: int,
    scale: torch.Tensor,
    used: torch.Tensor,
) -> tuple[float, float]:
    """Largest relative errors of value and slope between the knots and beyond them."""
    if not used.any():
        return 0.0, 0.0
    last = first + coefficients.size(1) - 2
    places = torch.arange(first, last, dtype=torch.float64).unsqueeze(1)
    places = (places + torch.tensor([0.21, 0.5, 0.79])).flatten()
    beyond = torch.tensor([0.21, 0.5, 0.79], dtype=torch.float64) * (last - first)
    places = torch.cat([places, first - beyond, last + beyond])
    exact, exact_slope, _ = (f[:, used] for f in functions(places / cells))
    cell = places.floor().clamp(first - 1, last)
    at, along = (factors.unsqueeze(1) for factors in monomials(places - cell))
    c = coefficients[:, (cell - first + 1).long()].transpose(0, 1)  # [points, in, 6]
    found = (c * at).sum(2)
    found_slope = cells * (c * along).sum(2)
    slope_scale = exact_slope.abs().max().clamp_min(1e-300)
    return (
        ((found - exact).abs().max() / scale).item(),
        ((found_slope - exact_slope).abs().max() / slope_scale).item(),
    )
