"""Piecewise polynomials that agree with the functions of a frozen KAN layer.

Every cell of a uniform grid holds the quintic that has φ's value, slope and curvature at both of
its ends, each taken from inside the cell. This is exact for B-splines of any order, whose knots are
knots of the grid; for other functions the grid is refined until value and slope agree to a bound.
Far outside the KAN's own grid φ is a line up to the bound (linear tails; SiLU is asymptotically
linear), and so is its replacement. x = 0 is a knot: φ(0) = 0 survives bit for bit.

On the way to that line only SiLU bends, over some twenty units of its own argument, which are
hundreds of cells of a grid that was fitted to small inputs. With ``tails="wide"`` pieces of another
width follow those of the grid to either side; an operator that reads them finds a piece by

    w = s_inside + (s - s_inside) ratio,    s_inside = s within the grid's pieces.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Literal

import torch

from kan_md.errors import KanMdError
from kan_md.kan.layer import KANLayer
from kan_md.ops.quintics import hermite_powers, monomials

_FEWEST_CELLS, _MOST_CELLS = 2, 512
"""Cells per step of the KAN's grid. Two: a zero-preserving B-spline has x = 0 on a knot or half-way
between two, and both must be knots of the new grid. More than the most would not fit a cache."""
_INSIDE = 1e-9
"""How far inside a cell, in cells, the derivatives at its ends are taken."""
_FEWEST_IN_TAIL, _MOST_IN_TAIL = 16, 4096
"""Pieces to either side of the grid's, where they have a width of their own."""
WIDEST_TAIL = 64.0
"""Steps of the grid over which SiLU is tabulated along in pieces of the grid's width."""
_PLACES = torch.tensor([0.21, 0.5, 0.79], dtype=torch.float64)
"""Inside a piece, where errors are looked for."""

Tails = Literal["uniform", "wide"]
"""Whether what is tabulated beyond the grid has pieces of the grid's width or of a larger one."""


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
        num_tail: pieces of another width to either side, before the line.
        tail_ratio: [in] float64, width of the other pieces by that of these.
    """

    coefficients: torch.Tensor
    inverse_step: torch.Tensor
    origin: int
    error: float
    slope_error: float
    kept: torch.Tensor
    num_tail: int
    tail_ratio: torch.Tensor


def fit_layer(layer: KANLayer, *, bound: float, tails: Tails = "uniform") -> Fit:
    """Piecewise polynomials of a layer with one output; see :func:`fit_outputs`."""
    (fit,) = fit_outputs(layer, bound=bound, tails=tails)
    return fit


def fit_outputs(layer: KANLayer, *, bound: float, tails: Tails = "uniform") -> list[Fit]:
    """Piecewise polynomials of every output of a layer, its SiLU part included, on one grid.

    Args:
        layer: any basis.
        bound: largest error of a value, relative to the largest range of an output's functions.
        tails: see :data:`Tails`.

    Raises:
        KanMdError: the bound needs too fine a grid.
    """
    functions = [
        _Functions(outputs_of(layer, slice(output, output + 1)))
        for output in range(layer.out_features)
    ]
    cells = _FEWEST_CELLS
    num_tail = _FEWEST_IN_TAIL if tails == "wide" and layer.base_weight is not None else 0
    while True:
        fits = []
        for output in functions:
            fit, rough_inside = _fit(output, cells, num_tail, bound)
            if fit.error > bound or fit.slope_error > bound:
                break  # these pieces are too wide for one of them
            fits.append(fit)
        else:
            return fits
        if cells >= _MOST_CELLS or num_tail >= _MOST_IN_TAIL:
            raise KanMdError(
                f"KAN functions as piecewise polynomials, got errors of {fit.error:.1e} (value) "
                f"and {fit.slope_error:.1e} (slope) with {cells} cells per grid step; allowed: "
                f"{bound:.1e}; deploy with a larger --bound or without kan_collapse"
            )
        if rough_inside or num_tail == 0:
            cells *= 2
        else:
            num_tail *= 2


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
            place = steps.clone().requires_grad_(True)
            value = self.layer.univariate(place * self.layer.grid_step).squeeze(2)
            (slope,) = torch.autograd.grad(value.sum(), place, create_graph=True)
            (curvature,) = torch.autograd.grad(slope.sum(), place, materialize_grads=True)
        return value.detach(), slope.detach(), curvature


def _fit(functions: _Functions, cells: int, num_tail: int, bound: float) -> tuple[Fit, bool]:
    """Interpolation with a given number of cells per step of the layer's grid.

    Returns:
        The fit, and whether its error is beyond the bound within the grid's pieces.
    """
    layer, gain = functions.layer, functions.gain
    low, high = -layer.grid_zero, layer.steps - layer.grid_zero  # ends in steps from x = 0
    end = torch.zeros_like(low)
    if layer.base_weight is not None:
        end = _silu_end(bound) / layer.grid_step
    if num_tail == 0:
        low, high = torch.minimum(low, -end), torch.maximum(high, end)
    first = math.floor(low.min().item() * cells)
    last = math.ceil(high.max().item() * cells)
    tail_width = torch.ones_like(end)  # in cells, [in]
    if num_tail:
        tail_width = ((end * cells - min(-first, last)) / num_tail).clamp_min(1.0)

    along = torch.arange(1, num_tail + 1, dtype=torch.float64).unsqueeze(1) * tail_width
    inner = torch.arange(first, last + 1, dtype=torch.float64).unsqueeze(1).expand(-1, len(end))
    knots = torch.cat([first - along.flip(0), inner, last + along]) / cells  # [knots, in], steps
    width = knots.diff(dim=0)
    home = num_tail - first
    value = functions(knots)[0]
    if layer.zero_preserving:
        value[home] = 0.0
    left = _end(functions, value[:-1], knots[:-1], _INSIDE, width)
    right = _end(functions, value[1:], knots[1:], -_INSIDE, width)
    inner = hermite_powers(left, right)  # [pieces, 6, in]
    before, after = torch.zeros_like(inner[:1]), torch.zeros_like(inner[:1])
    # Lines. The first cell ends at the first knot, where its place is one.
    before[0, :2] = torch.stack([left[0, 0] - left[0, 1], left[0, 1]])
    after[0, :2] = right[-1, :2]
    coefficients = torch.cat([before, inner, after]).permute(2, 0, 1).contiguous()
    # An input without gain does not contribute its function but its value at zero.
    idle = gain == 0
    coefficients[idle] = 0.0
    coefficients[idle, :, 0] = value[home, idle].unsqueeze(1)

    spread = value.amax(0) - value.amin(0)
    scale = spread.max().clamp_min(1e-300)
    starts = torch.cat([knots[:1] - width[:1], knots])
    widths = torch.cat([width[:1], width, width[-1:]])
    per_unit = gain / layer.grid_step
    error, slope_error = _errors(
        functions, coefficients, starts, widths, scale=scale, per_unit=per_unit
    )
    of_grid = slice(1 + num_tail, len(error) - 1 - num_tail)
    rough_inside = max(error[of_grid].max(), slope_error[of_grid].max()) > bound
    fit = Fit(
        coefficients=coefficients,
        inverse_step=cells * per_unit,
        origin=1 + home,
        error=error.max().item(),
        slope_error=slope_error.max().item(),
        kept=~((spread <= bound * scale) & (value[home] == 0.0)),
        num_tail=num_tail,
        tail_ratio=1.0 / tail_width,
    )
    return fit, bool(rough_inside)


def _end(
    functions: _Functions,
    value: torch.Tensor,
    knots: torch.Tensor,
    inside: float,
    width: torch.Tensor,
) -> torch.Tensor:
    """Value, slope and curvature at one end of every piece, per piece: [pieces, 3, in]."""
    _, slope, curvature = functions(knots + inside * width)
    slope, curvature = slope * width, curvature * width**2
    return torch.stack([value, slope - inside * curvature, curvature], dim=1)


def _errors(
    functions: _Functions,
    coefficients: torch.Tensor,
    starts: torch.Tensor,
    widths: torch.Tensor,
    *,
    scale: torch.Tensor,
    per_unit: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest relative errors of value and slope in every piece, [pieces] each.

    Args:
        functions: what the pieces stand for.
        coefficients: [in, pieces, 6], the first and the last one of lines.
        starts: [pieces, in], steps.
        widths: [pieces, in], steps.
        scale: what a value's error is relative to.
        per_unit: [in], steps per unit of x. A slope's error is relative to the largest dφ/dx.
    """
    used = per_unit != 0
    if not used.any():
        return torch.zeros(len(starts)), torch.zeros(len(starts))
    places = _PLACES.repeat(len(starts), 1)  # [pieces, places]
    places[0] = 1.0 - len(starts) * _PLACES
    places[-1] = len(starts) * _PLACES
    at = starts.unsqueeze(1) + places.unsqueeze(2) * widths.unsqueeze(1)  # [pieces, places, in]
    exact, exact_slope, _ = functions(at.flatten(0, 1))
    values, slopes = (factors.unsqueeze(2) for factors in monomials(places))
    c = coefficients.transpose(0, 1).unsqueeze(1)  # [pieces, 1, in, 6]
    wrong = ((c * values).sum(3) - exact.view_as(at))[..., used]
    found_slope = (c * slopes).sum(3) / widths.unsqueeze(1) * per_unit
    exact_slope = exact_slope.view_as(at) * per_unit
    slope_scale = exact_slope[..., used].abs().max().clamp_min(1e-300)
    wrong_slope = (found_slope - exact_slope)[..., used]
    return wrong.abs().amax((1, 2)) / scale, wrong_slope.abs().amax((1, 2)) / slope_scale
