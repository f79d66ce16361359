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
from kan_md.ops.tables import (
    BoundNotReachedError,
    FunctionsInList,
    RadialFunction,
    row_derivative,
)

_FEWEST_INTERVALS, MOST_INTERVALS = 32, 8192
_SAMPLES = 400
"""Distances at which the size of a function is looked for."""
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


class IntervalTableMaker(torch.nn.Module):
    """Cuts intervals into halves until values and slopes are within the bound.

    Code for Python and, of functions without kinks, for TorchScript.

    Args:
        functions: module of lengths [n] float64, Å, type of the centre, type of the neighbour (int)
            -> [n, num_functions] float64; zero with two derivatives at the cutoff.
        cutoffs: [num_types, num_types] float64, Å.
        bound: largest error of value and slope, relative to their largest size.
        most_intervals: of one pair.
    """

    def __init__(
        self,
        functions: torch.nn.Module,
        cutoffs: torch.Tensor,
        *,
        bound: float,
        most_intervals: int = MOST_INTERVALS,
    ):
        super().__init__()
        self.functions = functions
        self.register_buffer("all_cutoffs", cutoffs.double())
        self.register_buffer("tested", torch.tensor(_TESTED, dtype=torch.float64))
        self.register_buffer("towards_cutoff", _TOWARDS_CUTOFF)
        self.register_buffer("middle", torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64))
        self.bound = bound
        self.most_intervals = most_intervals
        self.fewest_intervals: int = _FEWEST_INTERVALS
        self.closest: float = _CLOSEST
        self.inside: float = _INSIDE
        self.narrow: float = _NARROW
        self.nearest: float = NEAREST

    def forward(
        self, pairs: list[tuple[int, int]], kinks: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tables of pairs.

        Args:
            pairs: types of centre and neighbour of each table.
            kinks: Å, one tensor per pair, distances between which its functions are smooth.

        Returns:
            Ends, powers and errors [2] of :class:`IntervalTable`. An error is infinite where the
            bound needs too many intervals.
        """
        all_ends: list[torch.Tensor] = []
        all_powers: list[torch.Tensor] = []
        errors: list[torch.Tensor] = []
        count = 0
        for number, (centre, neighbour) in enumerate(pairs):
            ends, powers, wrong = self.tabulate(centre, neighbour, kinks[number])
            all_ends.append(ends)
            all_powers.append(powers)
            errors.append(wrong)
            count = max(count, powers.size(0))
        for number, powers in enumerate(all_powers):
            missing, ends = count - powers.size(0), all_ends[number]
            zeros = torch.zeros(missing, powers.size(1), powers.size(2), dtype=powers.dtype)
            all_powers[number] = torch.cat([powers, zeros])
            all_ends[number] = torch.cat([ends, ends[-1:].expand(missing)])
        return torch.stack(all_ends), torch.stack(all_powers), torch.stack(errors).amax(0)

    def tabulate(
        self, centre: int, neighbour: int, kinks: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ends, powers, largest relative errors [2] of value and slope of one pair's table."""
        cutoff = self.all_cutoffs[centre, neighbour]
        even = cutoff * torch.arange(self.fewest_intervals + 1, dtype=torch.float64)
        even = even / self.fewest_intervals
        first = torch.cat([even, cutoff - even[1] * self.towards_cutoff, kinks])
        first = first.clamp_min(0.0).clamp_max(float(cutoff)).sort()[0]
        apart = torch.cat([torch.ones(1, dtype=torch.bool), first.diff() > self.closest * cutoff])
        first = first[apart]
        first[-1] = cutoff
        low, high = first[:-1], first[1:]
        left, right = self.ends(centre, neighbour, low, high, cutoff)
        starts: list[torch.Tensor] = []
        kept: list[torch.Tensor] = []
        scales = torch.full([2], 1e-300, dtype=torch.float64)
        errors = torch.zeros(2, dtype=torch.float64)
        count = 0
        while low.size(0) > 0:
            if count + low.size(0) > self.most_intervals:
                errors = torch.full([2], float("inf"), dtype=torch.float64)
                starts.append(low)
                kept.append(self.powers(left, right, high - low, cutoff))
                break
            powers = self.powers(left, right, high - low, cutoff)
            wrong, sizes = self.errors(centre, neighbour, powers, low, high, cutoff)
            scales = torch.maximum(scales, sizes)
            wrong = wrong / scales
            good = wrong.amax(1) <= self.bound
            starts.append(low[good])
            kept.append(powers[good])
            if bool(good.any()):
                errors = torch.maximum(errors, wrong[good].amax(0))
            count += int(good.sum())
            low, high, left, right = low[~good], high[~good], left[~good], right[~good]
            middle = 0.5 * (low + high)
            if low.size(0) > 0:
                between = self.derivatives(centre, neighbour, middle)
                low, high = torch.cat([low, middle]), torch.cat([middle, high])
                left, right = torch.cat([left, between]), torch.cat([between, right])
        all_starts = torch.cat(starts)
        order = all_starts.argsort()
        ends = torch.cat([all_starts[order], cutoff.view(1)])
        return ends, torch.cat(kept)[order], errors

    def derivatives(self, centre: int, neighbour: int, lengths: torch.Tensor) -> torch.Tensor:
        """f, f', f'' at all lengths, [n, 3, num_functions]."""
        r = lengths.clone().requires_grad_(True)
        value = self.functions(r, centre, neighbour)
        slope = row_derivative(value, r)
        curvature = row_derivative(slope, r)
        with torch.no_grad():  # a plain detach() is lost when TorchScript freezes a module
            found = torch.stack([value, slope, curvature], dim=1)
        return found

    def ends(
        self,
        centre: int,
        neighbour: int,
        low: torch.Tensor,
        high: torch.Tensor,
        cutoff: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """f, f', f'' at both ends as seen from inside, [num_intervals, 3, num_functions] each."""
        inside = torch.minimum((high - low) / 8, self.inside * cutoff)
        # Bessel functions divide by r: the table's first end is seen from a little farther inside.
        away = torch.cat([torch.where(low == 0.0, 2e-4 * cutoff, inside), -inside])
        end = torch.cat([low, high])
        value, slope, curvature = self.derivatives(centre, neighbour, end + away).unbind(1)
        value, slope = extrapolate(value, slope, curvature, -away.unsqueeze(1))
        found = torch.stack([value, slope, curvature], dim=1)
        found[end == cutoff] = 0.0
        return found[: low.size(0)], found[low.size(0) :]

    def powers(
        self, left: torch.Tensor, right: torch.Tensor, width: torch.Tensor, cutoff: torch.Tensor
    ) -> torch.Tensor:
        """Polynomials [num_intervals, 6, num_functions], from f, f', f'' at ends of intervals.

        Quintic Hermite polynomials; on narrow intervals f, f' from the left and f'' from both
        sides.
        """
        step = (width.unsqueeze(1) ** torch.arange(3)).unsqueeze(2)
        left, right = step * left, step * right
        powers = hermite_powers(left, right)
        narrow = width < self.narrow * cutoff
        powers[narrow, :3] = left[narrow] * self.middle.unsqueeze(1)
        powers[narrow, 3] = (right[narrow, 2] - left[narrow, 2]) / 6
        powers[narrow, 4:] = 0.0
        return powers

    def errors(
        self,
        centre: int,
        neighbour: int,
        powers: torch.Tensor,
        low: torch.Tensor,
        high: torch.Tensor,
        cutoff: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Largest errors of value and slope per interval [n, 2]; largest value and slope [2]."""
        width = (high - low).unsqueeze(1)
        lengths = low.unsqueeze(1) + width * self.tested  # [intervals, places]
        found, found_slope = values_and_slopes(powers, self.tested)
        counted = (lengths > self.nearest * cutoff).unsqueeze(2)
        r = lengths.flatten().requires_grad_(True)
        value = self.functions(r, centre, neighbour)
        slope = row_derivative(value, r)
        with torch.no_grad():
            exact = value.view_as(found) * counted
            exact_slope = slope.view_as(found) * counted
            wrong = (found * counted - exact).abs().amax([1, 2])
            found_slope = found_slope / width.unsqueeze(2)
            wrong_slope = (found_slope * counted - exact_slope).abs().amax([1, 2])
            sizes = torch.stack([exact.abs().max(), exact_slope.abs().max()])
            both = torch.stack([wrong, wrong_slope], dim=1)
        return both, sizes


def make_interval_table(
    functions: Sequence[RadialFunction],
    cutoffs: Sequence[float],
    kinks: Sequence[torch.Tensor],
    *,
    bound: float,
    most_intervals: int = MOST_INTERVALS,
) -> IntervalTable:
    """Tables of functions in a list.

    Args:
        functions: one per pair of types; zero with two derivatives at the cutoff.
        cutoffs: Å, one per pair.
        kinks: Å, one tensor per pair, distances between which its functions are smooth.
        bound: largest error of value and slope, relative to their largest size.
        most_intervals: of one pair.

    Raises:
        BoundNotReachedError: the bound needs too many intervals.
    """
    row = torch.tensor([list(cutoffs)], dtype=torch.float64)
    listed = FunctionsInList(functions)
    maker = IntervalTableMaker(listed, row, bound=bound, most_intervals=most_intervals)
    return table_of(maker, [(0, n) for n in range(len(listed.list))], kinks)


class TableOfOwnRanges(torch.nn.Module):
    """Makes tables of which every function is held to its own range.

    Args:
        functions: see :class:`IntervalTableMaker`.
        cutoffs: likewise.
        bound: largest error of a value or slope, relative to the range of its function.
    """

    def __init__(self, functions: torch.nn.Module, cutoffs: torch.Tensor, *, bound: float):
        super().__init__()
        self.maker = IntervalTableMaker(_Scaled(functions), cutoffs, bound=bound)
        places = (torch.arange(_SAMPLES, dtype=torch.float64) + 0.5) / _SAMPLES
        self.register_buffer("places", places)
        self.bound = bound
        self.most_intervals: int = self.maker.most_intervals

    def forward(
        self, pairs: list[tuple[int, int]], kinks: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What :class:`IntervalTableMaker` gives."""
        largest: list[torch.Tensor] = []
        with torch.no_grad():
            for centre, neighbour in pairs:
                lengths = self.maker.all_cutoffs[centre, neighbour] * self.places
                found = self.maker.functions.functions(lengths, centre, neighbour)
                largest.append(found.abs().amax(0))
            scale = torch.stack(largest).amax(0).clamp_min(1e-300)
        self.maker.functions.scale = scale
        ends, powers, errors = self.maker(pairs, kinks)
        return ends, powers * scale, errors


class _Scaled(torch.nn.Module):
    """Functions over their sizes."""

    def __init__(self, functions: torch.nn.Module):
        super().__init__()
        self.functions = functions
        self.register_buffer("scale", torch.ones(1, dtype=torch.float64))

    def forward(self, lengths: torch.Tensor, centre: int, neighbour: int) -> torch.Tensor:
        return self.functions(lengths, centre, neighbour) / self.scale


def table_of(
    maker: IntervalTableMaker | TableOfOwnRanges,
    pairs: list[tuple[int, int]],
    kinks: Sequence[torch.Tensor],
) -> IntervalTable:
    """Tables of pairs, within the maker's bound.

    Raises:
        BoundNotReachedError: the bound needs too many intervals.
    """
    with torch.enable_grad():
        ends, powers, errors = maker(pairs, list(kinks))
    if not errors.max() <= maker.bound:
        most = maker.most_intervals
        raise BoundNotReachedError(
            f"intervals of a radial table, got {most} or more for errors of {maker.bound:.1e}; "
            f"allowed: {most}; deploy with a larger --bound or with --portable"
        )
    return IntervalTable(ends, powers, *errors.tolist())


def locate_cells(ends: torch.Tensor, cells_per_interval: int = 2) -> torch.Tensor:
    """The intervals in which equal parts of [0, cutoff] start, for a quick search.

    Args:
        ends: [num_pairs, num_intervals + 1] of an :class:`IntervalTable`.
        cells_per_interval: equal parts for each interval.

    Returns:
        [num_pairs, num_cells] int32.
    """
    num_intervals = ends.size(1) - 1
    num_cells = cells_per_interval * num_intervals
    part = torch.arange(num_cells, dtype=torch.float64) / num_cells
    starts = part * ends[:, -1:]
    found = torch.searchsorted(ends, starts, right=True) - 1
    return found.clamp(0, num_intervals - 1).to(torch.int32)
