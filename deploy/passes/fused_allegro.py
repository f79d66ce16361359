"""A whole Allegro becomes one call of the project's C++ operator.

Allegro is strictly local: the energy of a centre depends on its own edges alone. The operator
computes one centre after the other, forward and reverse, while everything about it is in the cache
(kan_md/ops/allegro.cpp). It takes the factored form of :mod:`kan_md_deploy.passes.centre_factored`,
with tables in the place of the pair networks and of the functions of a KAN readout.

What a pair alone gives to a KAN, Σ_i φ_oi(x_i(r)), is a function of the distance: it becomes
columns of the table. The functions of a latent KAN's other inputs are evaluated by the operator,
exactly (kan_md/ops/kan_rows.h).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from nequip.data import AtomicDataDict
from nequip.nn import GraphModel

from kan_md.forms.allegro import FactoredAllegro, Layer, Radial
from kan_md.forms.harmonics import HarmonicsChain
from kan_md.forms.networks import Contributions
from kan_md.kan.layer import KANLayer
from kan_md.kan.network import KAN
from kan_md.ops import is_built
from kan_md.ops.interval_tables import IntervalTable, TableOfOwnRanges, locate_cells
from kan_md.ops.tables import BoundNotReachedError
from kan_md_deploy.chosen_types import SequenceOfChosen
from kan_md_deploy.manifest import pair_cutoffs
from kan_md_deploy.passes.allegro.latents import (
    LatentNetwork,
    latent_network,
    perceptron_matrices,
    read_latent_body,
)
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.centre_factored import EDGES
from kan_md_deploy.passes.operator_weights import ModelOnOperator, OperatorWeights
from kan_md_deploy.passes.radial_tables import FunctionsOfPair, exact_functions, vanishes
from kan_md_deploy.passes.tables.size import MOST_IN_FILE

_SUM, _PERCEPTRON, _KAN, _PROJECTED_KAN = 0, 1, 2, 3  # enum Readout in allegro_plan.h
_KAN_NETWORK, _PROJECTED_KAN_NETWORK = 4, 5
_MOST_L = 4
NUM_NORMS = 2
"""Weights behind the table that may differ by type."""
_NEGLIGIBLE = 1e-12
"""Tensor product coefficients that small, relative to the largest, are rounding."""
LARGEST_TABLES = {torch.float32: 4 << 30, torch.float64: 512 << 20}
"""Bytes; every process of a run holds a copy. Those of float64 are finer, and more are wanted only
for a bound that few need."""


class AllegroOnOperator(ModelOnOperator):
    """``kan_md::allegro`` with its constants."""

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Add atomic energies [num_atoms, 1] to the dict, before scale and shift."""
        energy, _ = torch.ops.kan_md.allegro(
            data[self._vectors],
            data[self._index],
            data[self._types].view(-1),
            self.constants(),
            self.shape,
        )
        data[self._energy] = energy.unsqueeze(1)
        return data


class AllegroOfChosen(ModelOnOperator):
    """``kan_md::allegro`` that makes its tables, and transposes, when elements are chosen.

    Args:
        operator: weights but for the table's, and numbers.
        maker: of the table.
        columns: of the functions among the padded columns of the table.
        num_columns: padded.
        num_types: of the model.
    """

    is_chosen = True

    def __init__(
        self,
        operator: OperatorWeights,
        maker: TableOfOwnRanges,
        columns: torch.Tensor,
        *,
        num_columns: int,
        num_types: int,
    ):
        super().__init__(operator)
        self.maker = maker
        self.dtype = operator.dtype
        self.transposed: list[bool] = [n in operator.transposed for n in range(len(self.weights))]
        for weight, is_transposed in zip(self.weights, self.transposed, strict=True):
            if is_transposed:
                weight.value = torch.zeros(0, 0, dtype=operator.dtype)
        self.transposes: list[torch.Tensor] = [torch.zeros(0, 0, dtype=operator.dtype)]
        self.has_transposes: bool = False
        self.num_columns = num_columns
        self.num_norms: int = NUM_NORMS
        self.register_buffer("columns", columns)
        self.register_buffer("table", torch.zeros(0, 0, 6, num_columns, dtype=operator.dtype))
        self.register_buffer("ends", torch.zeros(0, 0, dtype=torch.float64))
        self.register_buffer("cells", torch.zeros(0, 0, dtype=torch.int32))
        self.register_buffer("row_of_type", torch.full((num_types,), -1))
        self.register_buffer("type_of_row", torch.zeros(0, dtype=torch.int64))

    def choose(self, types: list[int]) -> float:
        """See :class:`~kan_md_deploy.chosen_types.SequenceOfChosen`."""
        if len(types) == 0:
            self.table, self.ends, self.cells = self.table[:0], self.ends[:0], self.cells[:0]
            self.transposes, self.has_transposes = self.transposes[:0], False
            return 0.0
        pairs: list[tuple[int, int]] = []
        kinks: list[torch.Tensor] = []
        row_of_type = torch.full_like(self.row_of_type, -1)
        for row, centre in enumerate(types):
            row_of_type[centre] = row
            for neighbour in types:
                pairs.append((centre, neighbour))
                kinks.append(torch.zeros(0, dtype=torch.float64))
        ends, powers, errors = self.maker(pairs, kinks)
        table = torch.zeros(powers.size(0), powers.size(1), 6, self.num_columns, dtype=self.dtype)
        table[:, :, :, self.columns] = powers.to(self.dtype)
        self.table, self.ends, self.cells = table, ends, locate_cells(ends)
        self.row_of_type, self.type_of_row = row_of_type, torch.tensor(types)
        if not self.has_transposes:
            self.make_transposes()
        return float(errors.max()) / self.maker.bound

    def make_transposes(self) -> None:
        """Make what the reverse pass reads, which would double the file."""
        transposes: list[torch.Tensor] = []
        weights = self.constants()
        with torch.no_grad():
            for number, is_transposed in enumerate(self.transposed):
                if is_transposed:
                    transposes.append(weights[number - 1].t().contiguous())
        self.transposes, self.has_transposes = transposes, True

    def chosen_constants(self) -> list[torch.Tensor]:
        """All weights: table, ends, cells, what is per type, and the rest."""
        weights = [self.table, self.ends, self.cells]
        place = 0
        for number, weight in enumerate(self.constants()):
            if self.transposed[number]:
                weight = self.transposes[place]
                place += 1
            of_types = number < self.num_norms and weight.numel() > 1
            weights.append(weight[self.type_of_row] if of_types else weight)
        return weights

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Add atomic energies [num_atoms, 1] to the dict, before scale and shift.

        Where there are edges, types that were not chosen are refused.
        """
        rows = self.row_of_type[data[self._types].view(-1)]
        if data[self._index].size(1) == 0:
            rows = torch.zeros_like(rows)
        assert bool((rows >= 0).all()), "atoms of elements that were not chosen"
        energy, _ = torch.ops.kan_md.allegro(
            data[self._vectors],
            data[self._index],
            rows,
            self.chosen_constants(),
            self.shape,
        )
        data[self._energy] = energy.unsqueeze(1)
        return data


class _Columns(torch.nn.Module):
    """Columns of the operator's table: what the pair gives, behind the first maps that read it.

    Args:
        functions: of the pair.
        contributions: how they are split.
        firsts: of each reader.
    """

    def __init__(
        self,
        functions: FunctionsOfPair,
        contributions: Contributions,
        firsts: list[torch.nn.Module],
    ):
        super().__init__()
        self.functions = functions
        self.widths: list[int] = contributions.widths
        self.num_direct: int = contributions.num_direct
        self.piece_of: list[int] = contributions.piece_of
        self.firsts = torch.nn.ModuleList(copy.deepcopy(first).double() for first in firsts)

    def pieces(self, lengths: torch.Tensor, centre: int, neighbour: int) -> list[torch.Tensor]:
        """One [n, width] for each use of the columns."""
        found = torch.split(self.functions(lengths, centre, neighbour), self.widths, dim=1)
        result: list[torch.Tensor] = []
        for number in range(self.num_direct):
            result.append(found[number])
        for number, first in enumerate(self.firsts):
            result.append(first(found[self.piece_of[number]]))
        return result

    def forward(self, lengths: torch.Tensor, centre: int, neighbour: int) -> torch.Tensor:
        """All of them side by side."""
        return torch.cat(self.pieces(lengths, centre, neighbour), dim=1)


class FusedAllegro:
    """The pass; see the module. It follows ``centre_factored``."""

    name = "fused_allegro"
    kinds = ("potential",)
    needs_operators = True

    def applies_to(self, model: GraphModel, context: PassContext) -> bool:
        """Whether the model is a factored Allegro of networks that the operator knows."""
        found = _factored(model)
        if not (context.bound > 0 and is_built() and found):
            return False
        cutoffs = pair_cutoffs(model, num_types=context.num_types, r_max=context.r_max)
        return _is_known(found[0]) and vanishes(exact_functions(found[0], context), cutoffs)

    def apply(self, model: GraphModel, context: PassContext) -> dict:
        """Exchange the part on edges."""
        (factored,) = _factored(model)
        cutoffs = pair_cutoffs(model, num_types=context.num_types, r_max=context.r_max)
        try:
            packed = _Packed(factored, context, cutoffs)
        except BoundNotReachedError as reason:
            return {"bound": 0.0, "skipped": str(reason)}
        if packed.maker is not None:
            model.model.func = SequenceOfChosen(
                {**model.model.func.parts, EDGES: packed.of_chosen(context)}, EDGES
            )
            return {
                "bound": context.bound,
                "operator": "kan_md::allegro",
                "tables": "made when elements are chosen",
            }
        size = packed.weights[0].numel() * packed.weights[0].element_size()
        if size > LARGEST_TABLES[packed.dtype]:
            return {"bound": 0.0, "skipped": _too_large(size, packed.dtype)}
        model.model.func.parts[EDGES] = AllegroOnOperator(packed)
        return {
            "bound": packed.error,
            "slope_bound": packed.slope_error,
            "intervals": packed.num_intervals,
            "operator": "kan_md::allegro",
        }


def _makes_tables(
    factored: FactoredAllegro, latents: list[LatentNetwork], context: PassContext
) -> bool:
    """Whether a file makes its tables when elements are chosen: of many, and smooth functions."""
    parts = [factored.radial, *(latent.pair for latent in latents)]
    modules = [module for part in parts if part is not None for module in part.modules()]
    is_smooth = not any(isinstance(module, KANLayer) for module in modules)
    return context.num_types**2 > MOST_IN_FILE and is_smooth and not context.static_shapes


def _too_large(size: int, dtype: torch.dtype) -> str:
    return (
        f"radial tables of {size / 2**20:.0f} MB, allowed: {LARGEST_TABLES[dtype] / 2**20:.0f} MB; "
        "deploy with a larger --bound or --dtype float32"
    )


class _Packed(OperatorWeights):
    """Weights and shape of the operator for a factored Allegro, and what the tables cost."""

    def __init__(self, factored: FactoredAllegro, context: PassContext, cutoffs: tuple[float, ...]):
        super().__init__(factored.dtype, bound=context.bound)
        self.factored = factored
        self.maker: TableOfOwnRanges | None = None
        sources = [factored.radial.contributions, *(x.contributions for x in factored.layers)]
        kind = _readout_kind(factored)
        results = [self._result(layer) for layer in factored.layers]
        latents = [latent_network(factored, n, result) for n, result in enumerate(results)]
        if _makes_tables(factored, latents, context):
            folded, widths = False, self._make_when_chosen(context, cutoffs, latents)
        else:
            table, widths, folded = self._tabulate(context, cutoffs, latents, kind)
            self.num_intervals = table.powers.size(1)
            self.add_table(table, self._groups(widths))
        readout_width = sources[-1].widths[sources[-1].piece_of[-1]]
        if kind == _KAN_NETWORK:
            readout_width = sources[-1].functions[-1].out_features
        l_max = factored.num_irreps - 1

        for norm in (factored.environment_norm, factored.energy_norm):
            self.weights.append(norm.flatten().to(self.dtype))
        self.shape = [l_max, self.padded(factored.channels), self.padded(_scalars(sources[0]))]
        self.shape += [len(latents), kind, self.padded(readout_width), self.padded(widths[-1])]
        if kind == _KAN:
            self.shape.append(int(folded))
        maps = _maps(factored.readout, kind)
        if maps is not None:
            self.shape += [len(maps), *(self.padded(_width(step)) for step in maps)]
        for latent in latents:
            self.shape += [latent.kind, len(latent.widths), *map(self.padded, latent.widths)]
        if kind == _PROJECTED_KAN:
            self.add_pieces(*_chain(factored.readout))
        elif kind == _KAN and not folded:
            self.add_pieces(sources[0].functions[-1])
        for step in maps or []:
            self._add_map(step)
        if kind in (_SUM, _PERCEPTRON):
            self.weights.append(self.pad(_readout_vector(factored, kind), 0))
        for number, (layer, latent) in enumerate(zip(factored.layers, latents, strict=True)):
            self._add_tensor_product(layer, last=number + 1 == len(latents))
            for first in (*latent.sources, latent.scalars, *latent.maps):
                self._add_map(first)
            if kind == _KAN:
                self.add_pieces(layer.contributions.functions[-1])
            if kind == _KAN_NETWORK:
                self._add_map(layer.contributions.functions[-1])

    def _groups(self, widths: list[int]) -> list[int]:
        """Widths of the groups of columns that are padded."""
        return [*[self.factored.channels] * (2 * self.factored.num_irreps), *widths]

    def _make_when_chosen(
        self, context: PassContext, cutoffs: tuple[float, ...], latents: list[LatentNetwork]
    ) -> list[int]:
        """Ready what makes the table; widths of the columns of each network."""
        plain = [torch.nn.Identity() for _ in (*latents, None)]
        columns = self._columns(plain)
        square = torch.tensor(cutoffs, dtype=torch.float64).view(context.num_types, -1)
        self.maker = TableOfOwnRanges(columns, square, bound=self.table_bound)
        return self._widths(columns, cutoffs)

    def of_chosen(self, context: PassContext) -> AllegroOfChosen:
        """The operator without its table."""
        groups = self._groups(self._widths(self.maker.maker.functions.functions, (1.0,)))
        starts = torch.tensor([0, *(self.padded(width) for width in groups)]).cumsum(0)
        columns = [s + torch.arange(w) for s, w in zip(starts.tolist(), groups, strict=False)]
        return AllegroOfChosen(
            self,
            self.maker,
            torch.cat(columns),
            num_columns=int(starts[-1]),
            num_types=context.num_types,
        )

    def _tabulate(
        self,
        context: PassContext,
        cutoffs: tuple[float, ...],
        latents: list[LatentNetwork],
        kind: int,
    ) -> tuple[IntervalTable, list[int], bool]:
        """Table of all columns, widths of those for each network, whether the readout's is folded.

        What the pair gives to a KAN readout is one column, unless that needs too fine a table: then
        the KAN's inputs are columns.
        """
        contributions: Contributions = self.factored.radial.contributions
        firsts = [latent.pair or torch.nn.Identity() for latent in latents]
        plain, readout = torch.nn.Identity(), contributions.functions[-1]
        if kind == _KAN_NETWORK:
            return *self._table(context, cutoffs, [*firsts, readout]), True
        if kind == _KAN:
            try:
                return *self._table(context, cutoffs, [*firsts, readout]), True
            except BoundNotReachedError:
                pass  # the operator evaluates them: slower, and no approximation more
        return *self._table(context, cutoffs, [*firsts, plain]), False

    def _table(
        self, context: PassContext, cutoffs: tuple[float, ...], firsts: list[torch.nn.Module]
    ) -> tuple[IntervalTable, list[int]]:
        """Table of what the pair gives, behind the first maps of the networks that read it."""
        columns = self._columns(firsts)

        def of_pair(lengths: torch.Tensor, pair: int) -> torch.Tensor:
            return columns(lengths, *divmod(pair, context.num_types))

        return self.tabulate(of_pair, cutoffs), self._widths(columns, cutoffs)

    def _columns(self, firsts: list[torch.nn.Module]) -> _Columns:
        radial = self.factored.radial
        return _Columns(FunctionsOfPair(radial), radial.contributions, firsts)

    def _widths(self, columns: _Columns, cutoffs: tuple[float, ...]) -> list[int]:
        with torch.no_grad():
            middle = torch.tensor([0.5 * cutoffs[0]], dtype=torch.float64)
            pieces = columns.pieces(middle, 0, 0)
        return [piece.size(1) for piece in pieces[columns.num_direct :]]

    def _result(self, layer: Layer) -> torch.Tensor:
        """[out, width] float64, from a latent network's last values to all that read them."""
        contributions = layer.contributions
        pieces = list(torch.split(contributions.weight, contributions.widths, dim=1))
        if contributions.num_direct:  # (irrep, channel): the channels of each irrep are padded
            pieces[:1] = torch.split(pieces[0], self.factored.channels, dim=1)
        return torch.cat([self.pad(piece, 1) for piece in pieces], dim=1).double()

    def _add_tensor_product(self, layer: Layer, *, last: bool) -> None:
        channels = layer.product.size(0)
        product = layer.product.view(channels, layer.dim_basis, layer.dim_in, layer.dim_out)
        product = product.permute(2, 1, 3, 0)  # [i, j, k, channels]
        if last:
            product = product[:, :, :1]  # an edge uses the scalar alone
        size = product.abs().amax(-1)
        terms = (size > _NEGLIGIBLE * size.max()).nonzero()
        self.shape += [layer.dim_in, product.size(2)]
        self.weights.append(terms.to(torch.int32))
        self.weights.append(self.pad(product[tuple(terms.t())], 1))

    def _add_map(self, step: torch.Tensor | KANLayer) -> None:
        """A matrix, or a KAN layer as the matrix behind its basis functions."""
        if isinstance(step, torch.Tensor):
            self.add_product(step)
        else:
            self.add_kan_layer(step)


def _factored(model: GraphModel) -> list[FactoredAllegro]:
    return [
        module
        for module in model.modules()
        if isinstance(module, FactoredAllegro) and isinstance(module.radial, Radial)
    ]


def _is_known(factored: FactoredAllegro) -> bool:
    """Whether all networks are of a known kind."""
    return (
        isinstance(factored.harmonics, HarmonicsChain)
        and factored.num_irreps - 1 <= _MOST_L
        and all(read_latent_body(layer) is not None for layer in factored.layers)
        and _readout_kind(factored) is not None
    )


def _scalars(pair: Contributions) -> int:
    """Width of the scalars that KANs read; 1 where there is none."""
    kans = (n for n, f in enumerate(pair.functions) if isinstance(f, KANLayer))
    return next((pair.widths[pair.piece_of[n]] for n in kans), 1)


def _readout_kind(factored: FactoredAllegro) -> int | None:
    """Which readout of allegro_plan.h it is; None for another one."""
    first, chain = factored.radial.contributions.functions[-1], _chain(factored.readout)
    if chain is not None:
        from_scalars = isinstance(first, KANLayer)
        layers = [first, *chain] if from_scalars else chain
        if len(layers) == 1 and layers[0].out_features == 1:
            return _KAN if from_scalars else _PROJECTED_KAN
        known = len(layers) > 1 and all(layer.zero_preserving for layer in layers)
        network = _KAN_NETWORK if from_scalars else _PROJECTED_KAN_NETWORK
        return network if known else None
    body, *last = factored.readout
    if isinstance(body, torch.nn.Identity) and not last:
        return _SUM
    if not isinstance(body, torch.nn.Sequential):
        return None
    hidden = perceptron_matrices(list(body))
    return _PERCEPTRON if hidden is not None and len(last) == 1 else None


def _maps(readout: torch.nn.Sequential, kind: int) -> Sequence[torch.Tensor | KANLayer] | None:
    """Maps of a readout network behind the sum of its sources, without a perceptron's last one."""
    if kind in (_KAN_NETWORK, _PROJECTED_KAN_NETWORK):
        return _chain(readout)
    return perceptron_matrices(list(readout[0])) if kind == _PERCEPTRON else None


def _width(step: torch.Tensor | KANLayer) -> int:
    return step.size(1) if isinstance(step, torch.Tensor) else step.out_features


def _chain(readout: torch.nn.Sequential) -> list[KANLayer] | None:
    """KAN layers behind the first map of a readout; None where there is anything else."""
    body, *last = readout
    steps = body.layers if isinstance(body, KAN) else body
    steps = list(steps) if isinstance(steps, (torch.nn.Sequential, torch.nn.ModuleList)) else [body]
    known = not last and all(isinstance(step, KANLayer) for step in steps)
    return steps if known else None


def _readout_vector(factored: FactoredAllegro, kind: int) -> torch.Tensor:
    """[readout_width] weights of the last sum."""
    if kind == _SUM:
        return torch.ones(1, dtype=torch.float64)
    return factored.readout[1].weight.flatten()
