"""Allegro by one C++ operator while it is trained, for those networks that the operator knows.

The operator (kan_md/ops/allegro_training.cpp) takes radial functions and harmonics of the edges and
all products of weights, in a row; it gives energies and their gradient. The derivative of both is a
second call, of its dual numbers. What comes before (lengths, harmonics, products of weights) and
after (shifts, sums, loss) is torch's, with torch's derivatives.

Columns of each matrix are padded to whole cache lines, per block that something reads.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from nequip.data import AtomicDataDict
from nequip.nn import with_edge_vectors_
from nequip.nn.mlp import ScalarLinearLayer

from kan_md.errors import KanMdError
from kan_md.forms.allegro import PARTS, EdgeListAllegro, Layer
from kan_md.forms.convolutions import is_asked_for
from kan_md.forms.edge_functions import (
    THIRD_DERIVATIVES,
    edge_functions,
    edge_functions_of,
    has_operator,
)
from kan_md.forms.harmonics import HarmonicsChain
from kan_md.forms.kept import Kept, normal_tensors, takes_gradients, tensors_of
from kan_md.forms.networks import Contributions, Linear, linear_weight
from kan_md.forms.pairs import PairBasis
from kan_md.forms.recorded import Recorded
from kan_md.kan.layer import KANLayer
from kan_md.kan.network import KAN
from kan_md.ops import function_sums

_LINE = 64
"""Bytes of a cache line; widths of the operator are whole ones."""
# enum StepKind in allegro_training_plan.h
_MATRIX, _SILU_MATRIX, _FUNCTIONS, _EXPANSION = 0, 1, 2, 3
_BASES = ("bspline", "gaussian", "fourier")  # enum Basis in kan_rows.h
_MOST_L = 4

Step = tuple[int, torch.Tensor | KANLayer]
"""Kind, and its matrix or layer; a matrix behind an expansion is [functions, in, out]."""


class AllegroForm(torch.nn.Module):
    """Energies of upstream's model by the factored form, made of its parameters as they are.

    Nothing of the model is registered here, so that its parameters are owned once.

    Args:
        energy: upstream's sequence of modules, of which :func:`kan_md.forms.allegro.why_not`
            knows no fault.

    Attributes:
        reason: what is fast about it, and why not more.
        pairs: None, it takes all edges.
    """

    pairs = None

    def __init__(self, energy: torch.nn.Module):
        super().__init__()
        self._upstream = (energy,)
        self._kept = Kept(energy, self._factored)
        self._terms = [_terms(product) for product in energy.allegro.tps]
        with torch.no_grad():
            self._layout = (self._factored(),)
        self._made = Recorded(lambda: self._factored().made)
        missing = why_no_operator(self._layout[0])
        if missing is None and not _is_there(self._layout[0]):
            missing = "kan-md build has not been run, or for older sources"
        self.reason = "one operator on a CPU"
        if missing is not None:
            self.reason = f"products of weights are formed once per step; no operator, {missing}"

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Do what upstream's sequence of modules does."""
        (energy,) = self._upstream
        data = with_edge_vectors_(data, with_lengths=False)
        data = self._with_energies(data)
        if AtomicDataDict.NORM_LENGTH_KEY not in data:  # what follows may read it
            data = energy.edge_norm(data)
        for name, part in energy.named_children():
            if name not in PARTS:
                data = part(data)
        return data

    def _with_energies(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        (energy,), (layout,) = self._upstream, self._layout
        tensors = tensors_of(energy)
        if not takes_gradients(tensors) or not layout.is_computed_by_operator(data):
            return self._kept(tensors)(data)
        return layout.by_operator(data, Made(*self._made(tensors)))

    def _factored(self) -> OperatorAllegro:
        (energy,) = self._upstream
        parts = dict(energy.named_children())
        return OperatorAllegro({name: parts[name] for name in PARTS}, self._terms)


class Made(NamedTuple):
    """What is made of a model's tensors for the operator.

    Attributes:
        weights: 1-d, in the order in which it reads them.
        environment_norm: [types or 1, 1].
        energy_norm: likewise.
    """

    weights: torch.Tensor
    environment_norm: torch.Tensor
    energy_norm: torch.Tensor


class OperatorAllegro(EdgeListAllegro):
    """The same function by ``kan_md::allegro_training`` where that is there and knows the model.

    Args:
        parts: upstream's modules by their names in the energy model.
        terms: of the tensor product of each layer, see :func:`_terms`.
    """

    def __init__(self, parts: dict[str, torch.nn.Module], terms: list[list[list[int]]]):
        super().__init__(parts, layout="environments")
        self.terms = terms

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Add atomic energies [num_atoms, 1] to the dict, before scale and shift."""
        if not self.is_computed_by_operator(data):
            return super().forward(data)
        return self.by_operator(data, self.made)

    def is_computed_by_operator(self, data: AtomicDataDict.Type) -> bool:
        """Whether the operator is here and knows the model and the structure's tensors."""
        return (
            _is_there(self)
            and function_sums.apply_to(data[self._vectors], "fourier", 2)
            and self.packed is not None
        )

    def by_operator(self, data: AtomicDataDict.Type, made: Made) -> AtomicDataDict.Type:
        """See :meth:`forward`.

        Args:
            data: with edge vectors.
            made: of the weights as they are.
        """
        vectors = data[self._vectors]
        types, centre = data[self._types].view(-1), data[self._index][0]
        radial, harmonics, pair = self._edge_functions(data, types)
        packed = self.packed
        norm = _of_types(made.environment_norm, types).view(-1).expand(types.size(0)).contiguous()
        call = _Call(
            *_sorted_edges(centre, pair, types.size(0), packed.num_pairs),
            norm,
            packed.program,
            packed.shape,
        )
        energies, *_ = _Energies.apply(radial, harmonics, made.weights, centre, call)
        energies = energies.to(vectors.dtype)
        data[self._energy] = energies.unsqueeze(1) * _of_types(made.energy_norm, types)
        return data

    @cached_property
    def made(self) -> Made:
        """What depends on tensors of the model."""
        with normal_tensors():
            return Made(self.packed.weights, self.environment_norm, self.energy_norm)

    @cached_property
    def packed(self) -> _Packed | None:
        """What the operator is told of the model; None where it does not know it."""
        with normal_tensors():
            return _Packed(self) if why_no_operator(self) is None else None

    def _edge_functions(
        self, data: AtomicDataDict.Type, types: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """What the first map reads, harmonics, and the pair of types of each edge if it matters."""
        embed, vectors = self.radial.embed, data[self._vectors]
        pair = None
        if isinstance(embed, PairBasis):
            centre, neighbour = types[data[self._index]]
            pair = centre * embed.num_types + neighbour
            l_max = self.num_irreps - 1
            functions = edge_functions_of(self.radial.length, embed.bessel, l_max)
            plain = isinstance(self.harmonics, HarmonicsChain)
            if functions is not None and plain and has_operator(vectors):
                return *edge_functions(vectors, pair, functions, self.dtype), pair
        harmonics, data = self._basis(data, vectors), self.radial.length(data)
        if pair is None:
            return embed(data)[self.radial._field], harmonics, None
        return embed.bessel(data)[embed.field], harmonics, pair


def _of_types(values: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
    return values[types] if values.size(0) > 1 else values


def _is_there(factored: EdgeListAllegro) -> bool:
    """Whether there is such an operator here, for a model where it is."""
    operators = function_sums.operators_for(factored.member)
    return hasattr(operators, "allegro_training")  # not in libraries of older sources


def why_no_operator(factored: EdgeListAllegro) -> str | None:
    """Why the operator does not know a model; None where it does."""
    sizes = [own.stop - own.start for own in factored.slices]
    if sizes != [2 * degree + 1 for degree in range(len(sizes))] or len(sizes) > _MOST_L + 1:
        return f"irreps of {sizes} components"
    sources = _sources(factored)
    for number, (body, contributions) in enumerate(sources):
        name = "two-body network" if number == 0 else f"latent network {number}"
        if _steps([*body, contributions]) is None:
            return f"its {name} is no perceptron with SiLU and no KAN"
    if _steps(factored.readout) is None:
        return "its readout is no perceptron with SiLU and no KAN"
    return None


def _terms(product: torch.nn.Module) -> list[list[int]]:
    """Components i, j, k whose Wigner 3j symbols upstream's Contracter has, one after the other."""
    found = product.w3j.abs()
    found = found.amax(0) if product.num_paths > 1 else found
    found = torch.diag_embed(found.t()).permute(1, 2, 0) if product.w3j_is_ij_diagonal else found
    return found.nonzero().tolist()


class _Call(NamedTuple):
    """What the operator is told of edges and shapes, see kan_md/ops/ops.h."""

    order: torch.Tensor
    first: torch.Tensor
    pair: torch.Tensor
    norm: torch.Tensor
    program: torch.Tensor
    shape: list[int]


def _sorted_edges(
    centre: torch.Tensor, pair: torch.Tensor | None, num_atoms: int, num_pairs: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Order of the edges by centre and pair, where those of a centre begin, pairs in that order."""
    pair = torch.zeros_like(centre) if pair is None else pair
    order = torch.argsort(centre * num_pairs + pair, stable=True)
    count = torch.bincount(centre, minlength=num_atoms)
    first = torch.nn.functional.pad(torch.cumsum(count, 0), (1, 0))
    return order, first, pair[order]


class _Energies(torch.autograd.Function):
    """Energies [num_atoms] float64 and their sum's gradients by radial functions and harmonics.

    The gradients are results, so that the derivative of a loss in both arrives in one call.
    """

    @staticmethod
    def forward(ctx, radial, harmonics, weights, centre, call):
        radial, harmonics = radial.contiguous(), harmonics.contiguous()
        results = torch.ops.kan_md.allegro_training(radial, harmonics, weights, *call)
        ctx.save_for_backward(radial, harmonics, weights, *results[1:])
        ctx.centre, ctx.call = centre, call
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx, energy_grad, radial_tangent, harmonics_tangent):
        radial, harmonics, weights, *gradients = ctx.saved_tensors
        first_order = radial_tangent is None and harmonics_tangent is None
        if first_order and not is_asked_for(ctx, 2):
            of_edge = energy_grad.to(radial.dtype)[ctx.centre].unsqueeze(1)
            return *(of_edge * gradient for gradient in gradients), None, None, None
        if energy_grad is None:
            energy_grad = ctx.call.norm.new_zeros(ctx.call.norm.shape)
        tangents = (
            torch.zeros_like(x) if tangent is None else tangent
            for x, tangent in ((radial, radial_tangent), (harmonics, harmonics_tangent))
        )
        variables = radial, harmonics, weights
        return *_Derivative.apply(energy_grad, *tangents, *variables, ctx.call), None, None


class _Derivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx, energy_grad, radial_tangent, harmonics_tangent, *variables_and_call):
        *variables, call = variables_and_call
        return torch.ops.kan_md.allegro_training_backward(
            energy_grad.to(variables[0].dtype).contiguous(),
            radial_tangent.contiguous(),
            harmonics_tangent.contiguous(),
            *variables,
            *call,
        )

    @staticmethod
    def backward(ctx, *grads):
        raise KanMdError(THIRD_DERIVATIVES)


class _Packed:
    """Shape, weights and indices as allegro_training_plan.cpp reads them.

    Attributes:
        shape: whole numbers.
        weights: 1-d, differentiable in the model's parameters.
        program: int32, components i, j, k of each term of the tensor products.
        num_pairs: of types.
    """

    def __init__(self, factored: EdgeListAllegro):
        self.line = _LINE // factored.member.element_size()
        self.factored = factored
        self._weights: list[torch.Tensor] = []
        self._program: list[int] = []
        channels = self._padded(factored.channels)
        embed, first = factored.radial.embed, _first_matrix(factored)
        self.num_pairs = embed.num_types**2 if isinstance(embed, PairBasis) else 1
        inputs, width = first.size(0) // self.num_pairs, first.size(1)
        self.shape = [factored.num_irreps - 1, channels, len(factored.layers)]
        self.shape += [self._padded(inputs), self.num_pairs, self._padded(width)]
        self._add(self._pad(first.view(self.num_pairs, inputs, width)))
        sources = _sources(factored)
        self._add_source(*sources[0])
        for number, (layer, source) in enumerate(zip(factored.layers, sources[1:], strict=True)):
            last = number + 1 == len(factored.layers)
            self._add_tensor_product(layer, factored.terms[number], last=last)
            self._add_steps(_steps([layer.reads]), None)
            self._add_source(*source)
        self._add_readout()
        for _, contributions in sources:
            self._add_readers(contributions)
        self.weights = torch.cat(self._weights)
        self.program = torch.tensor(self._program, dtype=torch.int32)

    def _padded(self, width: int) -> int:
        return -(-width // self.line) * self.line

    def _pad(self, matrix: torch.Tensor) -> torch.Tensor:
        """Zeros up to whole lines in the last two axes."""
        rows, columns = matrix.shape[-2:]
        missing = (0, self._padded(columns) - columns, 0, self._padded(rows) - rows)
        return torch.nn.functional.pad(matrix, missing) if any(missing) else matrix

    def _add(self, weight: torch.Tensor) -> None:
        self._weights.append(weight.reshape(-1))

    def _add_steps(self, steps: Iterable[Step], result: Contributions | None) -> None:
        steps = list(steps)
        self.shape.append(len(steps))
        for kind, step in steps:
            self.shape.append(kind)
            if kind == _EXPANSION:
                self._add_expansion(step)
                continue
            if kind == _FUNCTIONS:
                self.shape.append(self._padded(1))
                self._add_functions(step)
                continue
            matrix = (
                self._pad_blocks(result) if step is steps[-1][1] and result else self._pad(step)
            )
            self.shape.append(matrix.size(-1))
            self._add(matrix)

    def _add_source(self, body: list[torch.nn.Module], contributions: Contributions) -> None:
        self._add_steps(_steps([*body, contributions]), contributions)

    def _blocks(self, contributions: Contributions) -> Iterator[tuple[int, int]]:
        """Repeats and width of the blocks that each piece of a result is made of."""
        for number, width in enumerate(contributions.widths):
            if number < contributions.num_direct:
                yield width // self.factored.channels, self.factored.channels
            else:
                yield 1, width

    def _pad_blocks(self, contributions: Contributions) -> torch.Tensor:
        """Matrix of a result whose blocks are padded each."""
        pieces = torch.split(contributions.weight, contributions.widths, dim=1)
        padded = [
            self._pad(block)
            for piece, (repeats, _) in zip(pieces, self._blocks(contributions), strict=True)
            for block in piece.chunk(repeats, dim=1)
        ]
        return torch.cat(padded, dim=1)

    def _places(self, contributions: Contributions) -> list[int]:
        """First column of each piece of a result."""
        places = [0]
        for repeats, width in self._blocks(contributions):
            places.append(places[-1] + repeats * self._padded(width))
        return places

    def _add_tensor_product(self, layer: Layer, terms: list[list[int]], *, last: bool) -> None:
        ijk = terms
        if last:  # an edge uses the scalar alone
            ijk = [[i, j, k] for i, j, k in ijk if k == 0]
        self.shape += [layer.dim_in, 1 if last else layer.dim_out, len(ijk)]
        self._program += [number for term in ijk for number in term]
        flat = [(j * layer.dim_in + i) * layer.dim_out + k for i, j, k in ijk]
        weights = layer.product.flatten(1).index_select(1, torch.tensor(flat, dtype=torch.int64))
        columns = self._padded(weights.size(0)) - weights.size(0)
        self._add(torch.nn.functional.pad(weights.t(), (0, columns)))

    def _add_readout(self) -> None:
        contributions = self.factored.layers[-1].contributions
        first = contributions.functions[-1]
        width = block = contributions.widths[contributions.piece_of[-1]]
        if isinstance(first, KANLayer):
            width = first.out_features
        self.shape.append(self._padded(width))
        self._add_steps(_steps(self.factored.readout), None)
        self.shape += [1, self._padded(block)] if _is_sum_of_functions(first) else [0]

    def _add_readers(self, contributions: Contributions) -> None:
        """Where each reader's block begins, and what is between it and the reader's sum."""
        places = self._places(contributions)
        for piece, function in zip(contributions.piece_of, contributions.functions, strict=True):
            self.shape.append(places[piece])
            is_readout = function is contributions.functions[-1]
            if not isinstance(function, KANLayer) or (
                is_readout and _is_sum_of_functions(function)
            ):
                self.shape.append(0)
                continue
            self.shape += [1, self._padded(contributions.widths[piece])]
            self._add_steps(_steps([function], sums=False), None)
        if _is_sum_of_functions(contributions.functions[-1]):
            self._add_functions(contributions.functions[-1])

    def _add_expansion(self, layer: KANLayer) -> None:
        """Grids and values at zero as ``KanLayer`` in kan_md/ops/kan_rows.h has them."""
        self.shape += [_BASES.index(layer.basis), layer.num_basis, layer.order, layer.steps]
        self.shape.append(int(layer.base_weight is not None))
        gain = 1.0 if layer.input_gain is None else layer.input_gain
        scale, zero = gain / layer.grid_step, layer.grid_zero
        grid = torch.stack([scale, zero, layer.grid_step])
        at_zero = grid.new_zeros(layer.num_basis, layer.in_features)
        if layer.zero_preserving:
            plain = copy.copy(layer)
            plain.zero_preserving = False
            at_zero = plain.expand(torch.zeros_like(grid[:1]), layer.grid_zero)[0].squeeze(0).t()
        for table in (grid, at_zero):
            missing = self._padded(table.size(1)) - table.size(1)
            self._add(torch.nn.functional.pad(table, (0, missing)))
        if layer.basis == "bspline":
            pieces = torch.tensor(layer.pieces).to(grid).view(-1)
            missing = self._padded(pieces.numel()) - pieces.numel()
            self.shape.append(pieces.numel() + missing)
            self._add(torch.nn.functional.pad(pieces, (0, missing)))

    def _add_functions(self, layer: KANLayer) -> None:
        """Tables of a KAN layer with one output, as kan_md/ops/kan_functions.h wants them."""
        w, rest, scale, grid, family = layer.tables()
        has_base = rest.size(0) == 3
        self.shape += [_BASES.index(family.basis), *w.shape[:2], family.steps]
        self.shape += [int(family.shifted), int(has_base)]
        if not has_base:
            rest = torch.nn.functional.pad(rest, (0, 0, 0, 1))
        table = torch.cat([w.flatten(0, 1), rest, scale.unsqueeze(0), grid])
        missing = self._padded(table.size(1)) - table.size(1)
        self._add(torch.nn.functional.pad(table, (0, missing)))


def _sources(
    factored: EdgeListAllegro,
) -> list[tuple[list[torch.nn.Module], Contributions]]:
    """What gives scalars: modules behind the first map, and what is made of their result."""
    radial = factored.radial
    first, *rest = radial.function
    if isinstance(first, KANLayer):  # the operator's first map is a matrix
        rest = [first, *rest]
    layers = [([layer.body], layer.contributions) for layer in factored.layers]
    return [(rest, radial.contributions), *layers]


def _steps(modules: Iterable[torch.nn.Module], *, sums: bool = True) -> list[Step] | None:
    """Modules one after the other as steps of the operator; None where it does not know one.

    Args:
        modules: what is evaluated.
        sums: whether KAN layers with one output are the step that is made for them.
    """
    steps: list[Step] = []
    active = False
    for module in _flat(modules):
        if isinstance(module, torch.nn.SiLU) and not active:
            active = True
        elif isinstance(module, (Linear, Contributions)):
            steps.append((_SILU_MATRIX if active else _MATRIX, module.weight))
            active = False
        elif isinstance(module, ScalarLinearLayer) and module.bias is None:
            weight = linear_weight(module).to(module.weight.dtype)
            steps.append((_SILU_MATRIX if active else _MATRIX, weight))
            active = False
        elif isinstance(module, KANLayer) and not active:
            if sums and _is_sum_of_functions(module):
                steps.append((_FUNCTIONS, module))
            else:
                steps += [(_EXPANSION, module), (_MATRIX, _rows(module))]
        else:
            return None
    return None if active else steps


def _rows(layer: KANLayer) -> torch.Tensor:
    """What a layer's basis functions are multiplied by, SiLU last, [functions, in, out]."""
    rows = (layer.coefficients / layer.norm).permute(2, 1, 0)
    if layer.base_weight is None:
        return rows
    return torch.cat([rows, layer.base_weight.t().unsqueeze(0)])


def _first_matrix(factored: EdgeListAllegro) -> torch.Tensor:
    """What multiplies the radial functions, [in, width]."""
    first = factored.radial.function[0]
    if isinstance(first, Linear):
        return first.weight
    return torch.eye(first.in_features).to(first.grid_step)


def _flat(modules: Iterable[torch.nn.Module]) -> Iterator[torch.nn.Module]:
    for module in modules:
        if isinstance(module, KAN):
            yield from module.layers
        elif isinstance(module, torch.nn.Sequential):
            yield from _flat(module)
        elif not isinstance(module, torch.nn.Identity):
            yield module


def _is_sum_of_functions(layer: torch.nn.Module) -> bool:
    return (
        isinstance(layer, KANLayer)
        and layer.out_features == 1
        and function_sums.apply_to(layer.grid_step, layer.basis, layer.num_basis)
    )
