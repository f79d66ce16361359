"""Equivariant convolutions whose derivatives of any order are made by each other.

A message is linear in the weights w of an edge, its harmonics Y and its neighbour's features X.
With a field G on the centres, all that training needs are the derivatives of

    T = Σ_e Σ_paths Σ_ijk C_ijk Y[e,i] Σ_u w[e,u] X[source(e),j,u] G[target(e),k,u],

linear in each of the four: ∂T/∂G is the convolution, ∂T/∂X the same with the ends of the edges
exchanged, and the derivatives of each are the others with another argument. The operators walk
through the edges, so nothing of the size edges × components × channels is made or kept; plain torch
goes path by path and keeps nothing either.
"""

from __future__ import annotations

from functools import cached_property

import torch
from e3nn.o3 import Irreps, TensorProduct, wigner_3j

from kan_md.ops import function_sums


def knows_product(product: torch.nn.Module) -> bool:
    """Whether :class:`Convolution` computes a tensor product on edges."""
    return (
        type(product) is TensorProduct
        and all(mul == 1 for mul, _ in product.irreps_in2)
        and all(i.connection_mode == "uvu" and i.has_weight for i in product.instructions)
    )


def has_operators(x: torch.Tensor) -> bool:
    """Whether the operators are there for such a tensor."""
    return hasattr(function_sums.operators_for(x), "message_sums")


class Ends:
    """Both atoms of each edge, and the edges of each atom at either end.

    Args:
        target: [num_edges], the centre.
        source: [num_edges], the neighbour.
        num_atoms: of all frames.
    """

    def __init__(self, target: torch.Tensor, source: torch.Tensor, num_atoms: int):
        self.atoms, self.num_atoms = (target.contiguous(), source.contiguous()), num_atoms
        self._sorted = [_sorted_by(atom, num_atoms) for atom in self.atoms]

    def around(self, end: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The other end, and the edges sorted by this one (0 target, 1 source)."""
        return self.atoms[1 - end], *self._sorted[end]


def _sorted_by(atom: torch.Tensor, num_atoms: int) -> tuple[torch.Tensor, torch.Tensor]:
    count = torch.bincount(atom, minlength=num_atoms)
    first = torch.nn.functional.pad(torch.cumsum(count, 0), (1, 0))
    return torch.argsort(atom, stable=True), first


class Convolution:
    """A tensor product on edges and the sum over the edges of each atom.

    Args:
        product: upstream's, that :func:`knows_product` knows.
        dtype: of the model.
    """

    def __init__(self, product: TensorProduct, *, dtype: torch.dtype):
        self.permutation_in = _components_first(product.irreps_in1)
        self.permutation_out = torch.argsort(_components_first(product.irreps_out))
        paths, triples, values = [], [], []
        begins = [[own.start for own in irreps.slices()] for irreps in _irreps(product)]
        weight = 0
        for instruction in product.instructions:
            ends = (instruction.i_in1, instruction.i_in2, instruction.i_out)
            channels = product.irreps_in1[instruction.i_in1].mul
            degrees = [irreps[i].ir.l for irreps, i in zip(_irreps(product), ends, strict=True)]
            coupling = wigner_3j(*degrees, dtype=torch.float64) * instruction.path_weight
            found = coupling.nonzero()
            begin = len(values)
            triples += found[:, [1, 0, 2]].tolist()  # Y, X, field
            values += coupling[tuple(found.t())].tolist()
            places = [begins[n][end] for n, end in enumerate(ends)]
            paths.append([*places, weight, channels, begin, len(values)])
            weight += channels
        forth = torch.tensor(paths)
        back, three = forth[:, [2, 1, 0, 3, 4, 5, 6]].contiguous(), torch.tensor(triples)
        numbers = torch.tensor(values, dtype=torch.float64).to(dtype)
        self._tables = (
            (forth, three, numbers),
            (back, three[:, [0, 2, 1]].contiguous(), numbers),
        )
        self.widths = (product.irreps_out.dim, product.irreps_in1.dim)  # at target and source
        self.num_weights = weight
        self.num_components = product.irreps_in2.dim

    def tables(self, end: int, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Paths, triples and values of the sums at one end."""
        if self._tables[0][0].device != device:
            self._tables = tuple(tuple(t.to(device) for t in table) for table in self._tables)
        return self._tables[end]

    @cached_property
    def dense(self) -> list[_Path]:
        """The paths for plain torch, sums at the target."""
        paths, triples, values = self._tables[0]
        return [_Path(path, triples, values) for path in paths.tolist()]

    def __call__(
        self, features: torch.Tensor, harmonics: torch.Tensor, weights: torch.Tensor, ends: Ends
    ) -> torch.Tensor:
        """Sums of messages, [num_atoms, irreps], in e3nn's layout like the features."""
        x = features.index_select(1, self.permutation_in)
        return self.sums(x, harmonics, weights, ends).index_select(1, self.permutation_out)

    def sums(
        self, features: torch.Tensor, harmonics: torch.Tensor, weights: torch.Tensor, ends: Ends
    ) -> torch.Tensor:
        """The same with components before channels in each block, as the operators have it."""
        return _Sums.apply(weights, harmonics, features, ends, self, 0)


def _irreps(product: TensorProduct) -> tuple[Irreps, Irreps, Irreps]:
    return product.irreps_in1, product.irreps_in2, product.irreps_out


def _components_first(irreps: Irreps) -> torch.Tensor:
    """Where the columns of blocks [components, channels] are in e3nn's [channels, components]."""
    columns = [
        torch.arange(own.start, own.stop).view(mul, ir.dim).t().reshape(-1)
        for (mul, ir), own in zip(irreps, irreps.slices(), strict=True)
    ]
    return torch.cat(columns)


class _Path:
    """One path with its coupling: slices of columns, and [harmonics, source, target]."""

    def __init__(self, path: list[int], triples: torch.Tensor, values: torch.Tensor):
        source, harmonics, target, weights, channels, begin, end = path
        places, values = triples[begin:end], values[begin:end]
        i, j, k = (int(size) + 1 for size in places.amax(0))
        self.sizes, self.channels = (i, j, k), channels
        self.coupling = values.new_zeros(i, j, k)
        self.coupling[tuple(places.t())] = values
        self.weights = slice(weights, weights + channels)
        self.harmonics = slice(harmonics, harmonics + i)
        self.source = slice(source, source + j * channels)
        self.target = slice(target, target + k * channels)

    def matrices(self, y: torch.Tensor) -> torch.Tensor:
        """Σ_i C_ijk Y_i, [num_edges, source, target]."""
        i, j, k = self.sizes
        return (y[:, self.harmonics] @ self.coupling.to(y).view(i, j * k)).view(-1, j, k)

    def sent(self, x: torch.Tensor, atoms: torch.Tensor) -> torch.Tensor:
        """Features of the source, [num_edges, source, channels]."""
        part = x[:, self.source].index_select(0, atoms)
        return part.view(-1, self.sizes[1], self.channels)

    def received(self, field: torch.Tensor, atoms: torch.Tensor) -> torch.Tensor:
        """Field at the target, [num_edges, target, channels]."""
        part = field[:, self.target].index_select(0, atoms)
        return part.view(-1, self.sizes[2], self.channels)


def _message_sums(
    convolution: Convolution,
    end: int,
    w: torch.Tensor,
    y: torch.Tensor,
    x: torch.Tensor,
    ends: Ends,
) -> torch.Tensor:
    """Path by path: what one of them needs on edges is gone when the next begins."""
    target, source = ends.atoms
    result = x.new_zeros(ends.num_atoms, convolution.widths[end])
    for path in convolution.dense:
        matrices, weights = path.matrices(y), w[:, path.weights].unsqueeze(1)
        if end == 0:
            message = torch.bmm(matrices.transpose(1, 2), weights * path.sent(x, source))
            result[:, path.target].index_add_(0, target, message.flatten(1))
        else:
            message = torch.bmm(matrices, weights * path.received(x, target))
            result[:, path.source].index_add_(0, source, message.flatten(1))
    return result


def _message_weights(
    convolution: Convolution, y: torch.Tensor, x: torch.Tensor, field: torch.Tensor, ends: Ends
) -> torch.Tensor:
    target, source = ends.atoms
    parts = []
    for path in convolution.dense:
        pulled = torch.bmm(path.matrices(y), path.received(field, target))
        parts.append((pulled * path.sent(x, source)).sum(1))
    return torch.cat(parts, dim=1)


def _message_harmonics(
    convolution: Convolution, w: torch.Tensor, x: torch.Tensor, field: torch.Tensor, ends: Ends
) -> torch.Tensor:
    target, source = ends.atoms
    result = w.new_zeros(len(w), convolution.num_components)
    for path in convolution.dense:
        sent = w[:, path.weights].unsqueeze(1) * path.sent(x, source)
        products = torch.bmm(sent, path.received(field, target).transpose(1, 2))
        coupling = path.coupling.to(w).flatten(1).t()  # [source * target, harmonics]
        result[:, path.harmonics] += products.flatten(1) @ coupling
    return result


class _Sums(torch.autograd.Function):
    """∂T/∂G, or ∂T/∂X: sums on the atoms at one end, from features at the other."""

    @staticmethod
    def forward(ctx, weights, harmonics, features, ends, convolution, end):
        ctx.save_for_backward(weights, harmonics, features)
        ctx.ends, ctx.convolution, ctx.end = ends, convolution, end
        if not has_operators(weights):
            return _message_sums(convolution, end, weights, harmonics, features, ends)
        operators = function_sums.operators_for(weights)
        given = (t.contiguous() for t in (weights, harmonics, features))
        table, width = convolution.tables(end, weights.device), convolution.widths[end]
        return operators.message_sums(*given, *ends.around(end), *table, width)

    @staticmethod
    def backward(ctx, grad):
        weights, harmonics, features = ctx.saved_tensors
        rest = (ctx.ends, ctx.convolution)
        x, field = (features, grad) if ctx.end == 0 else (grad, features)
        wanted = ctx.needs_input_grad
        return (
            _Weights.apply(harmonics, x, field, *rest) if wanted[0] else None,
            _Harmonics.apply(weights, x, field, *rest) if wanted[1] else None,
            _Sums.apply(weights, harmonics, grad, *rest, 1 - ctx.end) if wanted[2] else None,
            *(None, None, None),
        )


class _Weights(torch.autograd.Function):
    """∂T/∂w."""

    @staticmethod
    def forward(ctx, harmonics, features, field, ends, convolution):
        ctx.save_for_backward(harmonics, features, field)
        ctx.rest = (ends, convolution)
        if not has_operators(harmonics):
            return _message_weights(convolution, harmonics, features, field, ends)
        operators = function_sums.operators_for(harmonics)
        given = (t.contiguous() for t in (harmonics, features, field))
        places = (ends.atoms[1], ends.atoms[0], *convolution.tables(0, field.device))
        return operators.message_weights(*given, *places, convolution.num_weights)

    @staticmethod
    def backward(ctx, grad):
        harmonics, features, field = ctx.saved_tensors
        wanted, rest = ctx.needs_input_grad, ctx.rest
        return (
            _Harmonics.apply(grad, features, field, *rest) if wanted[0] else None,
            _Sums.apply(grad, harmonics, field, *rest, 1) if wanted[1] else None,
            _Sums.apply(grad, harmonics, features, *rest, 0) if wanted[2] else None,
            *(None, None),
        )


class _Harmonics(torch.autograd.Function):
    """∂T/∂Y."""

    @staticmethod
    def forward(ctx, weights, features, field, ends, convolution):
        ctx.save_for_backward(weights, features, field)
        ctx.rest = (ends, convolution)
        if not has_operators(weights):
            return _message_harmonics(convolution, weights, features, field, ends)
        operators = function_sums.operators_for(weights)
        given = (t.contiguous() for t in (weights, features, field))
        places = (ends.atoms[1], ends.atoms[0], *convolution.tables(0, field.device))
        return operators.message_harmonics(*given, *places, convolution.num_components)

    @staticmethod
    def backward(ctx, grad):
        weights, features, field = ctx.saved_tensors
        wanted, rest = ctx.needs_input_grad, ctx.rest
        return (
            _Weights.apply(grad, features, field, *rest) if wanted[0] else None,
            _Sums.apply(weights, grad, field, *rest, 1) if wanted[1] else None,
            _Sums.apply(weights, grad, features, *rest, 0) if wanted[2] else None,
            *(None, None),
        )
