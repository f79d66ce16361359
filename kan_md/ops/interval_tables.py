"""Functions of a distance as polynomials on intervals of any width.

A uniform table (:mod:`kan_md.ops.tables`) is of little use to a function that has kinks in
a derivative, such as a KAN of the distance at the ends and knots of its grids: halving its step
halves the error of the slope beside a kink, no more. Here every kink is the end of an interval. The
quintic Hermite polynomial of an interval is made from inside it, and an interval whose error is
above the bound is cut into halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kan_md.ops.quintics import extrapolate, hermite_powers, values_and_slopes
from kan_md.ops.tables import BoundNotReachedError, RadialFunction, derivative, two_derivatives

_FEWEST_INTERVALS, MOST_INTERVALS = 32, 8192
_CELLS_PER_INTERVAL = 2
_INSIDE = 1e-9
"""Parts of the cutoff between an end and where the function is looked at: from neither side of a
kink may the other side be seen."""
_CLOSEST = 1e-11
"""Parts of the cutoff below which two kinks count as one."""
_NARROW = 1e-5
"""Parts of the cutoff below which values at both ends of an interval differ by little more than
their rounding."""
_TOWARDS_CUTOFF = 2.0 ** (-torch.arange(1, 21, dtype=torch.float64) / 4)
"""First ends in the last even part, in such parts from the cutoff: functions vanish there like a
power, and the small force of an edge that enters shall be right as well."""
NEAREST = 0.01
"""Parts of the cutoff below which no error counts and kinks are not looked for. Bessel functions
lose digits there, where no two atoms are."""
_TESTED = (0.27, 0.69)
"""Places inside an interval where errors are measured."""


@dataclass(frozen=True)
class IntervalTable:
    """Tables of radial functions and what they are worth.

    Attributes:
        ends: [num_pairs, num_intervals + 1] float64, Å, from 0 to the pair's cutoff, which pairs
            with fewer intervals than others repeat.
        powers: [num_pairs, num_intervals, 6, num_functions] float64, coefficients of the powers of
            the place in [0, 1] inside an interval.
        error: largest deviation, relative to the largest value.
        slope_error: the same for the derivative.
    """

    ends: torch.Tensor
    powers: torch.Tensor
    error: float
    slope_error: float


def make_interval_table(
    functions: Sequence[RadialFunction],
    cutoffs: Sequence[float],
    kinks: Sequence[torch.Tensor],
    *,
    bound: float,
    most_intervals: int = MOST_INTERVALS,
) -> IntervalTable:
    """Cut intervals into halves until values and slopes are within the bound.

    Args:
        functions: one per pair of types; zero with two derivatives at the cutoff.
        cutoffs: Å, one per pair.
        kinks: Å, one tensor per pair, distances between which its functions are smooth.
        bound: largest error of value and slope, relative to their largest size.
        most_intervals: of one pair.

    Raises:
        BoundNotReachedError: the bound needs too many intervals.
    """
    tables = [
        _tabulate(function, cutoff, places, bound=bound, most_intervals=most_intervals)
        for function, cutoff, places in zip(functions, cutoffs, kinks, strict=True)
    ]
    count = max(len(powers) for _, powers, _, _ in tables)
    ends, powers = [], []
    for own_ends, own_powers, _, _ in tables:
        missing = count - len(own_powers)
        ends.append(torch.cat([own_ends, own_ends[-1:].expand(missing)]))
        powers.append(torch.cat([own_powers, own_powers.new_zeros(missing, *own_powers.shape[1:])]))
    return IntervalTable(
        torch.stack(ends),
        torch.stack(powers),
        max(error for _, _, error, _ in tables),
        max(slope_error for _, _, _, slope_error in tables),
    )


def locate_cells(ends: torch.Tensor) -> torch.Tensor:
    """The intervals in which equal parts of [0, cutoff] start, for a quick search.

    Args:
        ends: [num_pairs, num_intervals + 1] of an :class:`IntervalTable`.

    Returns:
        [num_pairs, num_cells] int32.
    """
    num_intervals = ends.size(1) - 1
    num_cells = _CELLS_PER_INTERVAL * num_intervals
    part = torch.arange(num_cells, dtype=torch.float64) / num_cells
    starts = part * ends[:, -1:]
    found = torch.searchsorted(ends, starts, right=True) - 1
    return found.clamp(0, num_intervals - 1).to(torch.int32)


def _tabulate(
    function: RadialFunction,
    cutoff: float,
    kinks: torch.Tensor,
    *,
    bound: float,
    most_intervals: int,
) -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """Ends, powers, largest relative errors of value and slope of one pair's table."""
    even = torch.linspace(0, cutoff, _FEWEST_INTERVALS + 1, dtype=torch.float64)
    first = torch.cat([even, cutoff - even[1] * _TOWARDS_CUTOFF, kinks])
    first = first.clamp(0.0, cutoff).sort().values
    apart = torch.cat([torch.tensor([True]), first.diff() > _CLOSEST * cutoff])
    first = first[apart]
    first[-1] = cutoff
    low, high = first[:-1], first[1:]
    left, right = _ends(function, low, high, cutoff)
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    scale = slope_scale = 1e-300
    error = slope_error = 0.0
    count = 0
    while True:
        if count + len(low) > most_intervals:
            raise BoundNotReachedError(
                f"intervals of a radial table, got {count + len(low)} or more for errors of "
                f"{bound:.1e}; allowed: {most_intervals}; deploy with a larger --bound or with "
                "--portable"
            )
        powers = _powers(left, right, high - low, cutoff)
        wrong, wrong_slope, size, slope_size = _errors(function, powers, low, high, cutoff)
        scale, slope_scale = max(scale, size), max(slope_scale, slope_size)
        wrong, wrong_slope = wrong / scale, wrong_slope / slope_scale
        good = torch.maximum(wrong, wrong_slope) <= bound
        kept.append((low[good], powers[good]))
        if good.any():
            error = max(error, wrong[good].max().item())
            slope_error = max(slope_error, wrong_slope[good].max().item())
        count += int(good.sum())
        low, high, left, right = low[~good], high[~good], left[~good], right[~good]
        if len(low) == 0:
            break
        middle = 0.5 * (low + high)
        between = torch.stack(two_derivatives(function, middle), dim=1)
        low, high = torch.cat([low, middle]), torch.cat([middle, high])
        left, right = torch.cat([left, between]), torch.cat([between, right])
    starts = torch.cat([start for start, _ in kept])
    order = starts.argsort()
    ends = torch.cat([starts[order], starts.new_tensor([cutoff])])
    return ends, torch.cat([powers for _, powers in kept])[order], error, slope_error


def _ends(
    function: RadialFunction, low: torch.Tensor, high: torch.Tensor, cutoff: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """f, f', f'' at both ends as seen from inside, [num_intervals, 3, num_functions] each."""
    inside = torch.clamp((high - low) / 8, max=_INSIDE * cutoff)
    # Bessel functions divide by r: the table's first end is seen from a little farther inside.
    away = torch.cat([torch.where(low == 0.0, 2e-4 * cutoff, inside), -inside])
    end = torch.cat([low, high])
    value, slope, curvature = two_derivatives(function, end + away)
    away = away.unsqueeze(1)
    value, slope = extrapolate(value, slope, curvature, -away)
    found = torch.stack([value, slope, curvature], dim=1)
    found[end == cutoff] = 0.0
    return found[: len(low)], found[len(low) :]


def _powers(
    left: torch.Tensor, right: torch.Tensor, width: torch.Tensor, cutoff: float
) -> torch.Tensor:
    """Polynomials [num_intervals, 6, num_functions] of intervals, from f, f', f'' at their ends.

    Quintic Hermite polynomials; on narrow intervals f, f' from the left and f'' from both sides.
    """
    step = (width.unsqueeze(1) ** torch.arange(3)).unsqueeze(2)
    left, right = step * left, step * right
    powers = hermite_powers(left, right)
    narrow = width < _NARROW * cutoff
    factors = torch.tensor([1.0, 1.0, 0.5], dtype=left.dtype).unsqueeze(1)
    powers[narrow, :3] = left[narrow] * factors
    powers[narrow, 3] = (right[narrow, 2] - left[narrow, 2]) / 6
    powers[narrow, 4:] = 0.0
    return powers


def _errors(
    function: RadialFunction,
    powers: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    cutoff: float,
) -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """Largest errors of value and slope per interval; largest value and slope that were met."""
    place = torch.tensor(_TESTED, dtype=torch.float64)
    width = (high - low).unsqueeze(1)
    lengths = low.unsqueeze(1) + width * place  # [intervals, places]
    exact, exact_slope = derivative(function, lengths.flatten())
    found, found_slope = values_and_slopes(powers, place)
    found_slope = found_slope / width.unsqueeze(2)
    counted = (lengths > NEAREST * cutoff).unsqueeze(2)
    exact, exact_slope = (x.view_as(found) * counted for x in (exact, exact_slope))
    wrong = (found * counted - exact).abs().amax((1, 2))
    wrong_slope = (found_slope * counted - exact_slope).abs().amax((1, 2))
    return wrong, wrong_slope, exact.abs().max().item(), exact_slope.abs().max().item()
