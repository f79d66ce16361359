"""Radial functions sampled into quintic Hermite tables.

A table is made in deploying, or, of a file of many elements, by the file itself when its elements
are chosen: :class:`TableMaker` is code for Python and for TorchScript.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kan_md.errors import KanMdError
from kan_md.ops.quintics import extrapolate, hermite_powers, values_and_slopes


class BoundNotReachedError(KanMdError):
    """No table of a reasonable size is within the bound."""


RadialFunction = Callable[[torch.Tensor], torch.Tensor]
"""Lengths [n] float64, Å -> functions [n, num_functions] float64, row by row."""

FEWEST_KNOTS, MOST_KNOTS = 65, 4097
_AT_ONCE = 256
"""Distances that are differentiated together: a thousand functions and their derivatives take a few
hundred megabytes then."""
NEAREST = 0.2
"""Å, distance below which no error counts; of short cutoffs it is a part of the cutoff."""


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


class TableMaker(torch.nn.Module):
    """Makes tables of the functions of any pairs of types.

    Args:
        functions: module of lengths [n] float64, Å, type of the centre, type of the neighbour (int)
            -> [n, num_functions] float64, row by row; smooth on (0, cutoff], zero with two
            derivatives there.
        cutoffs: [num_types, num_types] float64, Å.
        bound: largest error of value and slope, relative to their largest size.
        first_knots: of the first try.
        most_knots: of one table.
    """

    def __init__(
        self,
        functions: torch.nn.Module,
        cutoffs: torch.Tensor,
        *,
        bound: float,
        first_knots: int = FEWEST_KNOTS,
        most_knots: int = MOST_KNOTS,
    ):
        super().__init__()
        self.functions = functions
        self.register_buffer("all_cutoffs", cutoffs.double())
        # Places between two knots where errors are measured.
        self.register_buffer("tested", torch.tensor([0.27, 0.5, 0.81], dtype=torch.float64))
        self.nearest: float = NEAREST
        self.at_once: int = _AT_ONCE
        self.bound = bound
        self.first_knots = first_knots
        self.most_knots = most_knots

    def forward(
        self, pairs: list[tuple[int, int]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tables of pairs.

        Args:
            pairs: types of centre and neighbour of each table.

        Returns:
            Values, cutoffs and errors [2] of :class:`RadialTable`. An error is above the bound, or
            no number, where no number of knots is enough.
        """
        num_knots, errors = self.needed(pairs)
        curves: list[torch.Tensor] = []
        cutoffs: list[torch.Tensor] = []
        for centre, neighbour in pairs:
            cutoff = self.all_cutoffs[centre, neighbour]
            curves.append(self.curve(centre, neighbour, cutoff, num_knots))
            cutoffs.append(cutoff)
        return torch.stack(curves), torch.stack(cutoffs), errors

    def needed(self, pairs: list[tuple[int, int]]) -> tuple[int, torch.Tensor]:
        """Double the number of knots of each pair until its values and slopes are within the bound.

        All get as many as the worst one; smooth functions are none the worse for it.

        Args:
            pairs: types of centre and neighbour of each table.

        Returns:
            Number of knots and largest errors [2].
        """
        most = self.first_knots
        errors: list[torch.Tensor] = []
        for centre, neighbour in pairs:
            cutoff = self.all_cutoffs[centre, neighbour]
            num_knots = self.first_knots
            wrong = self.errors(centre, neighbour, cutoff, num_knots)
            while float(wrong.max()) > self.bound and num_knots < self.most_knots:
                num_knots = 2 * num_knots - 1
                wrong = self.errors(centre, neighbour, cutoff, num_knots)
            most = max(most, num_knots)
            errors.append(wrong)
        return most, torch.stack(errors).amax(0)

    def curve(
        self, centre: int, neighbour: int, cutoff: torch.Tensor, num_knots: int
    ) -> torch.Tensor:
        """[num_knots, 3, num_functions] of f, h f', h² f''."""
        step = cutoff / (num_knots - 1)
        knots = torch.arange(num_knots, dtype=torch.float64) * step
        # Bessel functions divide by r: sample beside zero, then go there by Taylor's
        # formula. Closer than this, cancellation spoils their second derivative.
        knots[0] = 2e-4 * cutoff
        pieces: list[torch.Tensor] = []
        for part in knots.split(self.at_once):
            r = part.clone().requires_grad_(True)
            value = self.functions(r, centre, neighbour)
            slope = row_derivative(value, r)
            curvature = row_derivative(slope, r)
            with torch.no_grad():  # a plain detach() is lost when TorchScript freezes a module
                pieces.append(torch.stack([value, step * slope, step * step * curvature], dim=1))
        with torch.no_grad():
            curve = torch.cat(pieces)
            value, slope, curvature = curve[0, 0], curve[0, 1] / step, curve[0, 2] / step.square()
            first, first_slope = extrapolate(value, slope, curvature, -knots[0])
            curve[0, 0], curve[0, 1] = first, step * first_slope
            curve[-1] = 0.0
        return curve

    def errors(
        self, centre: int, neighbour: int, cutoff: torch.Tensor, num_knots: int
    ) -> torch.Tensor:
        """Largest relative errors of value and slope between so many knots, [2].

        Where no two atoms are, nothing counts: Bessel functions lose digits there, and transformed
        distances have slopes that are infinite at zero. Knots for these would cost the digits of
        all other slopes in float32.
        """
        curve = self.curve(centre, neighbour, cutoff, num_knots)
        step = cutoff / (num_knots - 1)
        powers = hermite_powers(curve[:-1], curve[1:])
        found, found_slope = values_and_slopes(powers, self.tested)
        found, found_slope = found.flatten(0, 1), found_slope.flatten(0, 1) / step
        lengths = (step * (torch.arange(powers.size(0)).unsqueeze(1) + self.tested)).flatten()
        counted = lengths > torch.clamp(0.04 * cutoff, max=self.nearest)
        found, found_slope = found[counted], found_slope[counted]
        wrong = torch.zeros(2, dtype=torch.float64)
        sizes = torch.full([2], 1e-300, dtype=torch.float64)
        start = 0
        for part in lengths[counted].split(self.at_once):
            end = start + part.size(0)
            r = part.clone().requires_grad_(True)
            value = self.functions(r, centre, neighbour)
            slope = row_derivative(value, r)
            with torch.no_grad():
                off = torch.stack(
                    [
                        (found[start:end] - value).abs().max(),
                        (found_slope[start:end] - slope).abs().max(),
                    ]
                )
                wrong = torch.maximum(wrong, off)  # which keeps what is no number
                sizes = torch.maximum(sizes, torch.stack([value.abs().max(), slope.abs().max()]))
            start = end
        return wrong / sizes


class FunctionsInList(torch.nn.Module):
    """Functions from a list, by the second number."""

    def __init__(self, functions: Sequence[RadialFunction]):
        super().__init__()
        self.list = list(functions)

    def forward(self, lengths: torch.Tensor, centre: int, neighbour: int) -> torch.Tensor:
        """The function of that number."""
        return self.list[neighbour](lengths)


def make_table(
    functions: list[RadialFunction],
    cutoffs: list[float],
    *,
    bound: float,
    most_knots: int = MOST_KNOTS,
) -> RadialTable:
    """Tables of functions in a list.

    Args:
        functions: one per table; see :class:`TableMaker`.
        cutoffs: Å, one per table.
        bound: see :class:`TableMaker`.
        most_knots: of one table.

    Raises:
        BoundNotReachedError: the bound needs too many knots.
    """
    row = torch.tensor([cutoffs], dtype=torch.float64)
    maker = TableMaker(FunctionsInList(functions), row, bound=bound, most_knots=most_knots)
    return table_of(maker, [(0, number) for number in range(len(functions))])


def table_of(maker: TableMaker, pairs: list[tuple[int, int]]) -> RadialTable:
    """Tables of pairs, within the maker's bound.

    Raises:
        BoundNotReachedError: the bound needs too many knots.
    """
    with torch.enable_grad():
        values, cutoffs, errors = maker(pairs)
    table = RadialTable(values, cutoffs, *errors.tolist())
    if not float(errors.max()) <= maker.bound:
        raise BoundNotReachedError(
            f"radial tables of {table.values.size(1)} knots, got slope error "
            f"{table.slope_error:.1e}; allowed: {maker.bound:.1e}; deploy with --portable or a "
            "larger bound"
        )
    return table


def row_derivative(value: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """D value[n, k] / d r[n] without a loop over k; code for TorchScript, too.

    g(v) = Σ_nk v_nk value_nk has dg/dr_n = Σ_k v_nk value'_nk, which is linear in v: its derivative
    by v is what is wanted (rows do not mix).
    """
    v = torch.ones_like(value).requires_grad_(True)
    weights: list[torch.Tensor | None] = [v]
    along = torch.autograd.grad([value], [r], weights, create_graph=True)[0]
    assert along is not None  # tells TorchScript that there is one
    slope = torch.autograd.grad([along.sum()], [v], create_graph=True)[0]
    assert slope is not None
    return slope
