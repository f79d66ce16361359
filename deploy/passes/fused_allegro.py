"""A whole Allegro becomes one call of the project's C++ operator.

Allegro is strictly local: the energy of a centre depends on its own edges alone. The operator
computes one centre after the other, forward and reverse, while everything about it is in the cache
(deploy/ops/allegro.cpp). It takes the factored form of :mod:`kan_md_deploy.passes.centre_factored`,
with tables in the place of the pair networks and of the functions of a KAN readout.

What a pair alone gives to a KAN readout, Σ_i φ_i(x_i(r)), is a function of the distance: it becomes
one column of the table.
"""

from __future__ import annotations

import copy

import torch
from nequip.data import AtomicDataDict
from nequip.nn import GraphModel
from nequip.nn.mlp import ScalarLinearLayer

from kan_md.kan.layer import KANLayer
from kan_md.kan.network import KAN
from kan_md_deploy.manifest import pair_cutoffs
from kan_md_deploy.ops.layout import block_of, pack_pieces
from kan_md_deploy.ops.library import is_built, load
from kan_md_deploy.ops.tables import (
    BoundNotReachedError,
    RadialTable,
    hermite_powers,
    make_table,
)
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.centre_factored import FactoredAllegro, Layer, Radial
from kan_md_deploy.passes.functions import Contributions, Linear, linear_weight
from kan_md_deploy.passes.harmonics import HarmonicsChain
from kan_md_deploy.passes.kan_fit import fit_layer, silu_tail
from kan_md_deploy.passes.radial_tables import (
    Functions,
    exact_functions,
    vanishes,
)

_SUM, _PERCEPTRON, _KAN, _PROJECTED_KAN = 0, 1, 2, 3  # enum Readout in allegro_plan.h
_MOST_FOLDED_KNOTS = 1025
_MOST_L = 4
_WIDEST_TAIL = 512.0
"""Steps of a KAN's grid over which its SiLU may be tabulated; more would not fit a cache."""
_NEGLIGIBLE = 1e-12
"""Tensor product coefficients that small, relative to the largest, are rounding."""
_SAMPLES = 400


class Constant(torch.nn.Module):
    """A tensor in a list of tensors that TorchScript can read."""

    def __init__(self, value: torch.Tensor):
        super().__init__()
        self.register_buffer("value", value)

    def forward(self) -> torch.Tensor:
        """Give it."""
        return self.value


class AllegroOnOperator(torch.nn.Module):
    """``kan_md::allegro`` with its constants.

    Args:
        weights: in the order of allegro_plan.cpp.
        shape: likewise.
    """

    def __init__(self, weights: list[torch.Tensor], shape: list[int]):
        super().__init__()
        load()
        self.weights = torch.nn.ModuleList(Constant(weight.contiguous()) for weight in weights)
        self.shape: list[int] = shape
        self._vectors = AtomicDataDict.EDGE_VECTORS_KEY
        self._index = AtomicDataDict.EDGE_INDEX_KEY
        self._types = AtomicDataDict.ATOM_TYPE_KEY
        self._energy = AtomicDataDict.PER_ATOM_ENERGY_KEY

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Add atomic energies [num_atoms, 1] to the dict, before scale and shift."""
        weights: list[torch.Tensor] = []
        for weight in self.weights:
            weights.append(weight())
        energy, _ = torch.ops.kan_md.allegro(
            data[self._vectors], data[self._index], data[self._types].view(-1), weights, self.shape
        )
        data[self._energy] = energy.unsqueeze(1)
        return data


class FusedAllegro:
    """The pass; see the module. It follows ``centre_factored``."""

    name = "fused_allegro"
    needs_operators = True

    def applies_to(self, model: GraphModel, context: PassContext) -> bool:
        """Whether the model is a factored Allegro of networks that the operator knows."""
        found = _factored(model)
        if not (context.bound > 0 and is_built() and found):
            return False
        cutoffs = pair_cutoffs(model, num_types=context.num_types, r_max=context.r_max)
        return _is_known(found[0], context.bound) and vanishes(
            exact_functions(found[0], context), cutoffs
        )

    def apply(self, model: GraphModel, context: PassContext) -> dict:
        """Exchange the part on edges."""
        (factored,) = _factored(model)
        cutoffs = pair_cutoffs(model, num_types=context.num_types, r_max=context.r_max)
        packed = _Packed(factored, context, cutoffs)
        model.model.func.edges = AllegroOnOperator(packed.weights, packed.shape)
        return {
            "bound": packed.error,
            "slope_bound": packed.slope_error,
            "knots": packed.num_knots,
            "operator": "kan_md::allegro",
        }


class _Packed:
    """Weights and shape of the operator for a factored Allegro, and what the tables cost."""

    def __init__(self, factored: FactoredAllegro, context: PassContext, cutoffs: tuple[float, ...]):
        self.factored = factored
        self.dtype = factored.dtype
        self.bound = context.bound
        self.error = self.slope_error = 0.0
        sources = [factored.radial.contributions, *(x.contributions for x in factored.layers)]
        kind = _readout_kind(factored)
        table, folded = self._tabulate(exact_functions(factored, context), cutoffs, kind)
        self.num_knots = table.values.size(1)
        readout_width = sources[-1].widths[sources[-1].piece_of[-1]]
        widths = [_hidden_widths(layer) for layer in factored.layers]
        l_max = factored.num_irreps - 1

        columns = [*[factored.channels] * (2 * factored.num_irreps), *(w[0] for w in widths)]
        columns.append(1 if folded else readout_width)
        powers = hermite_powers(table.values[:, :-1], table.values[:, 1:])
        # [pairs, intervals, 6, functions]
        rows = torch.cat(
            [_pad(piece, 3, self.dtype) for piece in torch.split(powers, columns, 3)], 3
        )
        self.weights = [rows, table.cutoffs]
        for norm in (factored.environment_norm, factored.energy_norm):
            self.weights.append(norm.flatten().to(self.dtype))
        self.shape = [l_max, self._padded(factored.channels), len(widths), kind]
        self.shape += [self._padded(readout_width), self._padded(columns[-1])]
        if kind == _KAN:
            self.shape.append(int(folded))
        for of_layer in widths:
            self.shape += [len(of_layer), *map(self._padded, of_layer)]
        if kind == _PROJECTED_KAN:
            self._add_kan(_only_layer(factored.readout[0]))
        elif kind != _KAN:
            self.weights.append(_pad(_readout_vector(factored, kind), 0, self.dtype))
        elif not folded:
            self._add_kan(sources[0].functions[-1])
        for number, layer in enumerate(factored.layers):
            self._add_layer(layer, last=number + 1 == len(widths))
            if kind == _KAN:
                self._add_kan(layer.contributions.functions[-1])

    def _padded(self, width: int) -> int:
        block = block_of(self.dtype)
        return -(-width // block) * block

    def _add_kan(self, layer: KANLayer) -> None:
        """Pieces of the inputs that a KAN readout takes from one source."""
        fit = fit_layer(layer, bound=self.bound)
        self.error = max(self.error, fit.error)
        self.slope_error = max(self.slope_error, fit.slope_error)
        self.shape.append(fit.origin)
        self.weights.append(_pad(pack_pieces(fit.coefficients), 0, self.dtype))
        self.weights.append(_pad(fit.inverse_step, 0, self.dtype))

    def _tabulate(
        self, functions: Functions, cutoffs: tuple[float, ...], kind: int
    ) -> tuple[RadialTable, bool]:
        """Table of all columns; with the KAN's part of the pair as one, where that is smooth."""
        contributions: Contributions = self.factored.radial.contributions
        if kind == _KAN:
            layer = copy.deepcopy(contributions.functions[-1]).double()
            width = contributions.widths[contributions.piece_of[-1]]

            def folded(lengths: torch.Tensor, pair: int) -> torch.Tensor:
                columns = functions(lengths, pair)
                return torch.cat([columns[:, :-width], layer(columns[:, -width:])], dim=1)

            try:
                return self._table(folded, cutoffs, most_knots=_MOST_FOLDED_KNOTS), True
            except BoundNotReachedError:
                pass  # the KAN's curvature has kinks in r: its inputs become columns instead
        return self._table(functions, cutoffs), False

    def _table(
        self, functions: Functions, cutoffs: tuple[float, ...], **limits: int
    ) -> RadialTable:
        """Every function's error is held to its own range."""
        pairs = range(len(cutoffs))
        places = (torch.arange(_SAMPLES, dtype=torch.float64) + 0.5) / _SAMPLES
        with torch.no_grad():
            largest = [functions(c * places, p).abs().amax(0) for p, c in enumerate(cutoffs)]
        scale = torch.stack(largest).amax(0).clamp_min(1e-300)
        table = make_table(
            [lambda lengths, p=p: functions(lengths, p) / scale for p in pairs],
            list(cutoffs),
            bound=self.bound,
            **limits,
        )
        self.error = max(self.error, table.error)
        self.slope_error = max(self.slope_error, table.slope_error)
        return RadialTable(table.values * scale, table.cutoffs, table.error, table.slope_error)

    def _add_layer(self, layer: Layer, *, last: bool) -> None:
        channels = layer.product.size(0)
        product = layer.product.view(channels, layer.dim_basis, layer.dim_in, layer.dim_out)
        product = product.permute(2, 1, 3, 0)  # [i, j, k, channels]
        if last:
            product = product[:, :, :1]  # an edge uses the scalar alone
        size = product.abs().amax(-1)
        terms = (size > _NEGLIGIBLE * size.max()).nonzero()
        self.shape += [layer.dim_in, product.size(2)]
        self.weights.append(terms.to(torch.int32))
        self.weights.append(_pad(product[tuple(terms.t())], 1, self.dtype))
        contributions = layer.contributions
        pieces = list(torch.split(contributions.weight, contributions.widths, dim=1))
        if not last:  # (irrep, channel): the channels of each irrep are padded
            pieces[:1] = torch.split(pieces[0], self.factored.channels, dim=1)
        result = torch.cat([_pad(piece, 1, self.dtype) for piece in pieces], dim=1)
        for matrix in (layer.reads.weight, *_hidden_matrices(layer), result):
            self._add_product(matrix)

    def _add_product(self, matrix: torch.Tensor) -> None:
        padded = _pad(_pad(matrix, 0, self.dtype), 1, self.dtype)
        self.weights += [padded, padded.t()]


def _pad(tensor: torch.Tensor, dim: int, dtype: torch.dtype) -> torch.Tensor:
    """Zeros up to a whole number of blocks along one dimension."""
    block = block_of(dtype)
    missing = -tensor.size(dim) % block
    sizes = list(tensor.shape)
    sizes[dim] = missing
    return torch.cat([tensor.detach().to(dtype), tensor.new_zeros(sizes, dtype=dtype)], dim)


def _factored(model: GraphModel) -> list[FactoredAllegro]:
    return [
        module
        for module in model.modules()
        if isinstance(module, FactoredAllegro) and isinstance(module.radial, Radial)
    ]


def _is_known(factored: FactoredAllegro, bound: float) -> bool:
    """Whether all networks are perceptrons with SiLU, and the readout of a known kind."""
    readers = factored.radial.contributions.functions
    sources = [factored.radial.contributions, *(layer.contributions for layer in factored.layers)]
    kans = [s.functions[-1] for s in sources if isinstance(s.functions[-1], KANLayer)]
    kans += [kan for kan in [_only_layer(factored.readout[0])] if kan is not None]
    return (
        isinstance(factored.harmonics, HarmonicsChain)
        and factored.num_irreps - 1 <= _MOST_L
        and all(silu_tail(kan, bound=bound) <= _WIDEST_TAIL for kan in kans)
        and all(isinstance(function, torch.nn.Identity) for function in readers[:-1])
        and all(
            isinstance(layer.reads, Linear) and _hidden_matrices(layer) is not None
            for layer in factored.layers
        )
        and _readout_kind(factored) is not None
    )


def _hidden_matrices(layer: Layer) -> list[torch.Tensor] | None:
    """Matrices between the hidden layers of a latent network; None if it is something else."""
    if not isinstance(layer.body, torch.nn.Sequential) or len(layer.body) % 2 == 0:
        return None
    inner = list(layer.body)
    activations, maps = inner[::2], inner[1::2]
    if not all(isinstance(activation, torch.nn.SiLU) for activation in activations):
        return None
    if not all(isinstance(m, ScalarLinearLayer) and m.bias is None for m in maps):
        return None
    return [linear_weight(m) for m in maps]


def _hidden_widths(layer: Layer) -> list[int]:
    matrices = _hidden_matrices(layer)
    assert matrices is not None, "checked before"
    return [layer.reads.weight.size(1), *(matrix.size(1) for matrix in matrices)]


def _readout_kind(factored: FactoredAllegro) -> int | None:
    """Which readout of allegro_plan.h it is; None for another one."""
    function = factored.radial.contributions.functions[-1]
    if isinstance(function, KANLayer):
        plain = function.out_features == 1 and len(factored.readout[0]) == 0
        return _KAN if plain and len(factored.readout) == 1 else None
    body, *last = factored.readout
    if isinstance(body, torch.nn.Identity) and not last:
        return _SUM
    if _only_layer(body) is not None and not last:
        return _PROJECTED_KAN
    steps = list(body) if isinstance(body, torch.nn.Sequential) else []
    perceptron = len(steps) == 1 and isinstance(steps[0], torch.nn.SiLU) and len(last) == 1
    return _PERCEPTRON if perceptron else None


def _only_layer(readout: torch.nn.Module) -> KANLayer | None:
    """The layer of a KAN with one layer and one output; None for anything else."""
    if not isinstance(readout, KAN) or readout.widths[1:] != [1]:
        return None
    return readout.layers[0]


def _readout_vector(factored: FactoredAllegro, kind: int) -> torch.Tensor:
    """[readout_width] weights of the last sum."""
    if kind == _SUM:
        return torch.ones(1, dtype=torch.float64)
    return factored.readout[1].weight.flatten()
