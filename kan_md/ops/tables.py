"""Radial functions sampled into quintic Hermite tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from kan_md.errors import KanMdError
from kan_md.ops.quintics import extrapolate, hermite_powers, values_and_slopes


class BoundNotReachedError(KanMdError):
    """No table of a reasonable size is within the bound."""


RadialFunction = Callable[[torch.Tensor], torch.Tensor]
"""Lengths [n] float64, Å -> functions [n, num_functions] float64, row by row."""

FEWEST_KNOTS, MOST_KNOTS = 65, 4097
_TESTED = (0.27, 0.5, 0.81)
"""Places between two knots where errors are measured."""


@dataclass(frozen=True)
class RadialTable:
    """Tables of radial functions and what they are worth.

    Attributes:
        values: [num_pairs, num_knots, 3, num_functions] float64 of f, h f', h² f''.
        cutoffs: [num_pairs] float64, Å.
        error: largest deviation between knots, relative to the largest value.
        slope_error: the same for the derivative.
    """

    values: torch.Tensor
    cutoffs: torch.Tensor
    error: float
    slope_error: float


def make_table(
    functions: list[RadialFunction],
    cutoffs: list[float],
    *,
    bound: float,
    most_knots: int = MOST_KNOTS,
) -> RadialTable:
    """Double the number of knots until values and slopes are within the bound.

    Args:
        functions: one per pair of types; smooth on (0, cutoff], zero with two derivatives there.
        cutoffs: Å, one per pair.
        bound: largest error of value and slope, relative to their largest size.
        most_knots: of one table.

    Raises:
        BoundNotReachedError: the bound needs too many knots.
    """
    num_knots = FEWEST_KNOTS
    while True:
        table = _sample(functions, cutoffs, num_knots)
        if max(table.error, table.slope_error) <= bound:
            return table
        if num_knots >= most_knots:
            raise BoundNotReachedError(
                f"radial tables of {num_knots} knots, got slope error {table.slope_error:.1e}; "
                f"allowed: {bound:.1e}; deploy with --portable or a larger bound"
            )
        num_knots = 2 * num_knots - 1


def _sample(functions: list[RadialFunction], cutoffs: list[float], num_knots: int) -> RadialTable:
    rows, error, slope_error = [], 0.0, 0.0
    for function, cutoff in zip(functions, cutoffs, strict=True):
        step = cutoff / (num_knots - 1)
        knots = torch.arange(num_knots, dtype=torch.float64) * step
        # Bessel functions divide by r: sample beside zero, then go there by Taylor's
        # formula. Closer than this, cancellation spoils their second derivative.
        knots[0] = 2e-4 * cutoff
        value, slope, curvature = two_derivatives(function, knots)
        value[0], slope[0] = extrapolate(value[0], slope[0], curvature[0], -knots[0])
        curve = torch.stack([value, step * slope, step**2 * curvature], dim=1)  # [knots, 3, k]
        curve[-1] = 0.0
        rows.append(curve)
        found = _errors(function, curve, cutoff)
        error, slope_error = max(error, found[0]), max(slope_error, found[1])
    values = torch.stack(rows)
    return RadialTable(values, torch.tensor(cutoffs, dtype=torch.float64), error, slope_error)


def _errors(function: RadialFunction, curve: torch.Tensor, cutoff: float) -> tuple[float, float]:
    """Largest relative errors of value and slope between knots.

    Bessel functions lose digits below a hundredth of the cutoff, where no two atoms are.
    """
    step = cutoff / (curve.size(0) - 1)
    place = torch.tensor(_TESTED, dtype=torch.float64)
    powers = hermite_powers(curve[:-1], curve[1:])
    found, found_slope = (x.flatten(0, 1) for x in values_and_slopes(powers, place))
    found_slope = found_slope / step
    lengths = (step * (torch.arange(len(powers)).unsqueeze(1) + place)).flatten()
    counted = lengths > 0.01 * cutoff
    found, found_slope = found[counted], found_slope[counted]
    exact, exact_slope = two_derivatives(function, lengths[counted])[:2]
    scale = exact.abs().amax().clamp_min(torch.finfo(torch.float64).tiny)
    slope_scale = exact_slope.abs().amax().clamp_min(torch.finfo(torch.float64).tiny)
    return (
        float((found - exact).abs().amax() / scale),
        float((found_slope - exact_slope).abs().amax() / slope_scale),
    )


def two_derivatives(
    function: RadialFunction, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """f, f', f'' of all functions at all lengths, each [n, num_functions]."""

    def slope_of(r: torch.Tensor) -> torch.Tensor:
        return _row_derivative(function(r), r)

    value = function(lengths).detach()
    slope, curvature = derivative(slope_of, lengths)
    return value, slope, curvature


def derivative(
    function: RadialFunction, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and slopes of all functions at all lengths, each [n, num_functions]."""
    with torch.enable_grad():
        r = lengths.detach().requires_grad_(True)
        value = function(r)
        return value.detach(), _row_derivative(value, r).detach()


def _row_derivative(value: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """D value[n, k] / d r[n] without a loop over k.

    g(v) = Σ_nk v_nk value_nk has dg/dr_n = Σ_k v_nk value'_nk, which is linear in v: its derivative
    by v is what is wanted (rows do not mix).
    """
    v = torch.ones_like(value, requires_grad=True)
    (along,) = torch.autograd.grad(value, r, v, create_graph=True)
    (slope,) = torch.autograd.grad(along.sum(), v, create_graph=True)
    return slope
