"""Networks that know only a pair's distance and types become tables in the distance.

The functions of one network, f_k(r) for each pair of types, lie close to a space of low dimension:
f_k(r) = Σ_m c_m(r) V_mk with far fewer c than f. The c_m are tabulated as quintic Hermite splines
(value, slope and curvature at uniform knots, twice continuously differentiable) and V is one matrix
product. Both are refined until values and slopes are within the bound of every f_k's range. At the
cutoff the tables are zero with two derivatives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from nequip.data import AtomicDataDict
from nequip.nn import GraphModel

from kan_md.forms.allegro import FactoredAllegro, Radial
from kan_md.forms.networks import Contributions
from kan_md.ops.quintics import hermite_powers
from kan_md.ops.tables import BoundNotReachedError, make_table
from kan_md_deploy.manifest import pair_cutoffs
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.tables.size import check_table_size

_SAMPLES = 1200
"""Distances at which the space of the functions is found."""
_VANISHING = 1e-9
"""Size at the cutoff, relative to the range, below which a function counts as zero there."""

Functions = Callable[[torch.Tensor, int], torch.Tensor]
"""Lengths [n] float64 and number of the type pair -> [n, num_functions] float64."""


class RadialTable(torch.nn.Module):
    """c_m(r) per pair of types from quintic Hermite tables, in plain torch.

    Args:
        values: [num_pairs, num_knots, 3, num_functions] of f, h f', h² f''.
        cutoffs: [num_pairs] float64, Å.
        dtype: of the result.
    """

    def __init__(self, values: torch.Tensor, cutoffs: torch.Tensor, *, dtype: torch.dtype):
        super().__init__()
        self.num_pairs, self.num_knots, _, self.num_functions = values.shape
        # Powers of the place inside an interval, not its two ends: their differences would cost the
        # slope as many digits as there are knots.
        rows = hermite_powers(values[:, :-1], values[:, 1:])
        self.register_buffer("rows", rows.flatten(0, 1).flatten(1).to(dtype).contiguous())
        self.register_buffer("order", torch.arange(1, 6, dtype=dtype))
        self.register_buffer("inverse_step", (self.num_knots - 1) / cutoffs.double())

    def forward(self, length: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
        """Evaluate [num_edges, num_functions].

        Args:
            length: [num_edges, 1] float64, Å.
            pair: [num_edges] int64.
        """
        with torch.no_grad():
            value, slope, start = self.tangent(length, pair)
        # zero, with the derivative of the length
        shift = (length - start).to(value.dtype)
        return torch.addcmul(value, shift, slope)

    def tangent(
        self, length: torch.Tensor, pair: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Values and slopes [num_edges, num_functions], and a copy of the length."""
        scale = self.inverse_step
        if self.num_pairs > 1:
            scale = scale[pair].unsqueeze(1)
        place = length * scale
        knot = place.floor().clamp(0.0, float(self.num_knots - 2))
        inside = (place < float(self.num_knots - 1)).to(self.rows.dtype)
        t = (place - knot).to(self.rows.dtype)
        row = knot.to(torch.int64).squeeze(1)
        if self.num_pairs > 1:
            row = row + pair * (self.num_knots - 1)
        square = t * t
        cube = square * t
        low = torch.cat([torch.ones_like(t), t, square, cube, square * square], dim=1) * inside
        nothing = torch.zeros_like(t)
        # Six for the value, six for the slope.
        weights = torch.cat([low, square * cube * inside, nothing, low * self.order], dim=1)
        both = torch.bmm(
            weights.view(-1, 2, 6),
            torch.index_select(self.rows, 0, row).view(-1, 6, self.num_functions),
        )
        return both[:, 0], both[:, 1] * scale.to(self.rows.dtype), length.clone()


class TabulatedRadial(torch.nn.Module):
    """Stands in for a network of distance and types in a nequip model.

    Args:
        table: the functions c_m.
        contributions: with V in the place of their linear maps.
        num_types: number of atom types.
    """

    def __init__(self, table: torch.nn.Module, contributions: Contributions, *, num_types: int):
        super().__init__()
        self.table = table
        self.contributions = contributions
        self.num_types = num_types
        self._length = AtomicDataDict.EDGE_LENGTH_KEY
        self._index = AtomicDataDict.EDGE_INDEX_KEY
        self._types = AtomicDataDict.ATOM_TYPE_KEY

    def forward(self, data: AtomicDataDict.Type) -> list[torch.Tensor]:
        """What the network makes of an edge's length and types."""
        index = data[self._index]
        pair = index[0]
        if self.num_types > 1:
            types = data[self._types].view(-1)
            pair = types[index[0]] * self.num_types + types[index[1]]
        return self.contributions(self.table(data[self._length].view(-1, 1), pair))


class RadialTables:
    """The pass; see the module."""

    name = "radial_tables"
    kinds = ("potential",)
    needs_operators = False

    def applies_to(self, model: GraphModel, context: PassContext) -> bool:
        """Whether a radial network that vanishes at the cutoff stands by itself."""
        cutoffs = pair_cutoffs(model, num_types=context.num_types, r_max=context.r_max)
        found = _factored(model)
        return (
            context.bound > 0
            and bool(found)
            and vanishes(exact_functions(found[0], context), cutoffs)
        )

    def apply(self, model: GraphModel, context: PassContext) -> dict:
        """Tabulate the pair part of a factored Allegro."""
        (factored,) = _factored(model)
        cutoffs = pair_cutoffs(model, num_types=context.num_types, r_max=context.r_max)
        functions = exact_functions(factored, context)
        try:
            mix, table, error, slope_error = tabulate(functions, cutoffs, bound=context.bound)
        except BoundNotReachedError as reason:  # a KAN of the distance has kinks in its curvature
            return {"bound": 0.0, "skipped": str(reason)}
        contributions = factored.radial.contributions
        contributions.weight = mix.to(factored.dtype)
        factored.radial = TabulatedRadial(
            RadialTable(table, torch.tensor(cutoffs), dtype=factored.dtype),
            contributions,
            num_types=context.num_types,
        )
        return {
            "bound": error,
            "slope_bound": slope_error,
            "functions": mix.size(1),
            "tabulated": mix.size(0),
            "knots": table.size(1),
            "pairs": len(cutoffs),
        }


def tabulate(
    functions: Functions, cutoffs: tuple[float, ...], *, bound: float
) -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """Find few functions that make up all others, and tabulate them.

    Args:
        functions: smooth on (0, cutoff], zero there with two derivatives.
        cutoffs: Å, per pair of types.
        bound: of every function's error relative to its range, and of its slope's.

    Returns:
        V [tabulated, num_functions]; table [num_pairs, num_knots, 3, tabulated]; largest error of a
        value and of a slope, each relative to the largest of its function.

    Raises:
        BoundNotReachedError: the bound needs too many knots.
    """
    pairs = range(len(cutoffs))
    check_table_size(len(cutoffs), functions(_lengths(cutoffs[0], 2), 0).size(1))
    samples = [_lengths(cutoff, _SAMPLES) for cutoff in cutoffs]
    exact = [_with_slope(functions, samples[pair], pair) for pair in pairs]
    values = torch.cat([value for value, _ in exact])
    slopes = torch.cat([slope for _, slope in exact])
    scale, slope_scale = (x.abs().amax(0).clamp_min(1e-300) for x in (values, slopes))
    basis = _common_space(values / scale, slopes / scale, slope_scale / scale, bound=bound / 3)
    mix = basis * scale

    def coordinates(pair: int) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda lengths: (functions(lengths, pair) / scale) @ basis.t()

    inner = bound / 3
    while True:
        table = make_table([coordinates(p) for p in pairs], list(cutoffs), bound=inner)
        module = RadialTable(table.values, table.cutoffs, dtype=torch.float64)
        error = slope_error = 0.0
        for pair in pairs:
            at = torch.full((len(samples[pair]),), pair)
            lengths = samples[pair].unsqueeze(1)
            with torch.no_grad():
                value, slope, _ = module.tangent(lengths, at)
            wrong = (value @ mix - exact[pair][0]).abs() / scale
            wrong_slope = (slope @ mix - exact[pair][1]).abs() / slope_scale
            error = max(error, wrong.max().item())
            slope_error = max(slope_error, wrong_slope.max().item())
        if max(error, slope_error) <= bound:
            return mix, table.values, error, slope_error
        inner /= 8


def _common_space(
    values: torch.Tensor, slopes: torch.Tensor, slope_scale: torch.Tensor, *, bound: float
) -> torch.Tensor:
    """Orthonormal rows [rank, num_functions] that span all values and slopes to a bound."""
    stacked = torch.cat([values, slopes / slope_scale.max()])
    _, _, directions = torch.linalg.svd(stacked, full_matrices=False)
    for rank in range(1, len(directions)):
        basis = directions[:rank]
        lost = (values - values @ basis.t() @ basis).abs().max()
        lost_slope = ((slopes - slopes @ basis.t() @ basis) / slope_scale).abs().max()
        if max(lost.item(), lost_slope.item()) <= bound:
            return basis
    return directions


def _lengths(cutoff: float, count: int) -> torch.Tensor:
    """Distances inside (0, cutoff), at no special place between knots."""
    return cutoff * (torch.arange(count, dtype=torch.float64) + 0.5017) / count


def _with_slope(
    functions: Functions, lengths: torch.Tensor, pair: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """f_k and df_k/dr, [n, num_functions] each; fourth-order differences."""
    step = 2e-4
    value = functions(lengths, pair)
    near = [functions(lengths + shift * step, pair) for shift in (-2, -1, 1, 2)]
    slope = (near[0] - near[3] + 8.0 * (near[2] - near[1])) / (12.0 * step)
    return value, slope


def _factored(model: GraphModel) -> list[FactoredAllegro]:
    return [
        module
        for module in model.modules()
        if isinstance(module, FactoredAllegro) and isinstance(module.radial, Radial)
    ]


def exact_functions(factored: FactoredAllegro, context: PassContext) -> Functions:
    """The radial part in float64 as functions of length and pair of types."""
    functions = FunctionsOfPair(factored.radial)
    return lambda lengths, pair: functions(lengths, *divmod(pair, context.num_types))


class FunctionsOfPair(torch.nn.Module):
    """The radial part of a factored Allegro by length and types, float64; for TorchScript, too.

    Args:
        radial: that part.
    """

    def __init__(self, radial: Radial):
        super().__init__()
        self.radial = copy.deepcopy(radial).double().requires_grad_(False)
        for module in self.radial.modules():
            if hasattr(module, "_output_dtype"):  # upstream's, where it casts its results to
                module._output_dtype = torch.float64
        self._vectors = AtomicDataDict.EDGE_VECTORS_KEY
        self._index = AtomicDataDict.EDGE_INDEX_KEY
        self._types = AtomicDataDict.ATOM_TYPE_KEY

    def forward(self, lengths: torch.Tensor, centre: int, neighbour: int) -> torch.Tensor:
        """[n, num_functions] for lengths [n], Å."""
        unit = torch.tensor([1.0, 0.0, 0.0], dtype=lengths.dtype)
        data: dict[str, torch.Tensor] = {
            self._vectors: lengths.unsqueeze(1) * unit,
            self._index: torch.tensor([[0], [1]]).repeat(1, lengths.size(0)),
            self._types: torch.tensor([centre, neighbour]),
        }
        return torch.mm(self.radial.features(data), self.radial.contributions.weight)


def vanishes(functions: Functions, cutoffs: tuple[float, ...]) -> bool:
    """Whether all functions and two derivatives are zero at the cutoff."""
    for pair, cutoff in enumerate(cutoffs):
        inside = functions(_lengths(cutoff, 64), pair).abs().max()
        near = functions(cutoff * torch.tensor([1.0 - 1e-4, 1.0], dtype=torch.float64), pair)
        # Three derivatives of a function that goes like (1 - x)^4 leave 1e-16 of it here.
        if near.abs().max() > _VANISHING * inside:
            return False
    return True
