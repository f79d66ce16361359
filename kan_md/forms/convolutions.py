"""Equivariant convolutions with the two derivatives that training on forces takes.

A message is linear in the weights w of an edge, its harmonics Y and its neighbour's features X.
With a matrix M = Σ_i C_ijk Y_i for every path of an edge and a field G on the centres, all that
training needs are the derivatives of

    T = Σ_e Σ_paths Σ_jk M[e,j,k] Σ_u w[e,u] X[source(e),j,u] G[target(e),k,u],

linear in each of the four: ∂T/∂G is the convolution, ∂T/∂X the same with the ends of the edges
exchanged, and where the first derivatives are differentiated again, along directions of w, M and X,
the results are derivatives of the same sums along these. The operators walk through the edges, so
nothing of the size edges × components × channels is made or kept; plain torch goes path by path and
keeps nothing either. Edges in two halves, one of which is the other turned round, share weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from e3nn.o3 import Irreps, TensorProduct, wigner_3j
from torch.autograd.function import once_differentiable

from kan_md.ops import function_sums

_HIGHEST_DEGREE = 3  # of features, kMostComponents in kan_md/ops/equivariant_sums.cpp


def knows_product(product: torch.nn.Module) -> bool:
    """Whether :class:`Convolution` computes a tensor product on edges."""
    return (
        type(product) is TensorProduct
        and all(mul == 1 for mul, _ in product.irreps_in2)
        and all(i.connection_mode == "uvu" and i.has_weight for i in product.instructions)
    )


def has_operators(x: torch.Tensor) -> bool:
    """Whether the operators are there for such a tensor."""
    return hasattr(function_sums.operators_for(x), "message_gradients")


class Ends:
    """Both ends of each edge, and the edges of each atom at either end.

    Args:
        target: [num_edges], the centre.
        source: [num_edges], the neighbour, or whatever has its features.
        num_targets: of all frames.
        num_sources: as many where None.
    """

    def __init__(
        self,
        target: torch.Tensor,
        source: torch.Tensor,
        num_targets: int,
        num_sources: int | None = None,
    ):
        self.target, self.source = target.contiguous(), source.contiguous()
        self.counts = (num_targets, num_targets if num_sources is None else num_sources)
        self._sorted = [
            _sorted_by(atom, count)
            for atom, count in zip((self.target, self.source), self.counts, strict=True)
        ]

    def around(self, end: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The other end, and the edges sorted by this one (0 target, 1 source)."""
        return (self.target, self.source)[1 - end], *self._sorted[end]


def _sorted_by(atom: torch.Tensor, num_atoms: int) -> tuple[torch.Tensor, torch.Tensor]:
    count = torch.bincount(atom, minlength=num_atoms)
    first = torch.nn.functional.pad(torch.cumsum(count, 0), (1, 0))
    return torch.argsort(atom, stable=True), first


class _Path:
    """Where the parts of one path are: slices of columns."""

    def __init__(self, row: list[int]):
        source, target, weights, channels, matrices, self.rows, self.columns = row
        self.channels = channels
        self.source = slice(source, source + self.rows * channels)
        self.target = slice(target, target + self.columns * channels)
        self.weights = slice(weights, weights + channels)
        self.matrices = slice(matrices, matrices + self.rows * self.columns)


class Convolution:
    """A tensor product on edges and the sum over the edges of each atom.

    Args:
        product: upstream's, that :func:`knows_product` knows.
        dtype: of the model.
    """

    def __init__(self, product: TensorProduct, *, dtype: torch.dtype):
        self._permutation_in = _components_first(product.irreps_in1)
        self._permutation_out = torch.argsort(_components_first(product.irreps_out))
        begins = [[own.start for own in irreps.slices()] for irreps in _irreps(product)]
        rows, couplings, weight, matrix = [], [], 0, 0
        for instruction in product.instructions:
            ends = (instruction.i_in1, instruction.i_in2, instruction.i_out)
            source, harmonics, target = (begins[n][end] for n, end in enumerate(ends))
            degrees = [irreps[i].ir.l for irreps, i in zip(_irreps(product), ends, strict=True)]
            symbol = wigner_3j(*degrees, dtype=torch.float64) * instruction.path_weight
            j, i, k = symbol.shape
            coupling = symbol.new_zeros(product.irreps_in2.dim, j * k)
            coupling[harmonics : harmonics + i] = symbol.transpose(0, 1).reshape(i, j * k)
            channels = product.irreps_in1[instruction.i_in1].mul
            rows.append([source, target, weight, channels, matrix, j, k])
            couplings.append(coupling)
            weight, matrix = weight + channels, matrix + j * k
        self._paths = torch.tensor(rows)
        self._coupling = torch.cat(couplings, dim=1).to(dtype)
        self.paths = [_Path(row) for row in rows]
        self.widths = (product.irreps_out.dim, product.irreps_in1.dim)  # at target and source
        self._fits_operators = all(
            size <= 2 * _HIGHEST_DEGREE + 1 for row in rows for size in row[5:]
        )

    def __call__(
        self, features: torch.Tensor, harmonics: torch.Tensor, weights: torch.Tensor, ends: Ends
    ) -> torch.Tensor:
        """Sums of messages, [num_atoms, irreps], in e3nn's layout like the features."""
        self._move_to(features.device)
        x = features.index_select(1, self._permutation_in)
        y = self.sums(x, harmonics, weights, ends)
        return y.index_select(1, self._permutation_out)

    def sums(
        self, features: torch.Tensor, harmonics: torch.Tensor, weights: torch.Tensor, ends: Ends
    ) -> torch.Tensor:
        """The same with components before channels in each block, as the operators have it.

        Args:
            features: [num_sources, irreps].
            harmonics: [num_edges, components].
            weights: [num_edges, channels of all paths], or half as many rows where the second half
                of the edges has those of the first.
            ends: of the edges.
        """
        self._move_to(features.device)
        matrices = harmonics @ self._coupling
        return _Sums.apply(weights, matrices, features, ends, self)

    def _move_to(self, device: torch.device) -> None:
        if self._coupling.device != device:
            self._coupling, self._paths = self._coupling.to(device), self._paths.to(device)
            self._permutation_in = self._permutation_in.to(device)
            self._permutation_out = self._permutation_out.to(device)

    def sum_messages(
        self, given: Sequence[torch.Tensor], along: Sequence[torch.Tensor], ends: Ends, end: int
    ) -> torch.Tensor:
        """∂T/∂G at the target (end 0) or ∂T/∂X at the source (1).

        Args:
            given: w, M, and X or G.
            along: directions of w and M, or of all three: the derivative along them; or none.
            ends: of the edges.
            end: where the sums are.
        """
        if self._fits_operators and has_operators(given[0]):
            directions = [*along, None, None, None][:3]
            return function_sums.operators_for(given[0]).message_sums(
                *(t.contiguous() for t in given),
                *(None if t is None else t.contiguous() for t in directions),
                *ends.around(end),
                self._paths,
                self.widths[end],
                end == 1,
            )
        return sum(_sums(self, replaced, ends, end) for replaced in _replaced(given, along))

    def differentiate(
        self, given: Sequence[torch.Tensor], along: Sequence[torch.Tensor], ends: Ends
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """∂T/∂w and ∂T/∂M, or their derivatives along directions of w, M and X.

        Args:
            given: w, M, X and G.
            along: of the first three, or none.
            ends: of the edges.
        """
        if self._fits_operators and has_operators(given[0]):
            return function_sums.operators_for(given[0]).message_gradients(
                *(t.contiguous() for t in given),
                *([t.contiguous() for t in along] or [None, None, None]),
                *(ends.source, ends.target, self._paths),
            )
        w, m, x, field = given
        by_weights = [(m, x)]
        by_matrices = [(w, x)]
        if along:
            by_weights = [(along[1], x), (m, along[2])]
            by_matrices = [(along[0], x), (w, along[2])]
        return (
            sum(_by_weights(self, *pair, field, ends, len(w)) for pair in by_weights),
            sum(_by_matrices(self, *pair, field, ends) for pair in by_matrices),
        )


def _irreps(product: TensorProduct) -> tuple[Irreps, Irreps, Irreps]:
    return product.irreps_in1, product.irreps_in2, product.irreps_out


def _components_first(irreps: Irreps) -> torch.Tensor:
    """Where the columns of blocks [components, channels] are in e3nn's [channels, components]."""
    columns = [
        torch.arange(own.start, own.stop).view(mul, ir.dim).t().reshape(-1)
        for (mul, ir), own in zip(irreps, irreps.slices(), strict=True)
    ]
    return torch.cat(columns)


class _Sums(torch.autograd.Function):
    """∂T/∂G."""

    @staticmethod
    def forward(ctx, weights, matrices, features, ends, convolution):
        ctx.save_for_backward(weights, matrices, features)
        ctx.rest = (ends, convolution)
        return convolution.sum_messages((weights, matrices, features), (), ends, 0)

    @staticmethod
    def backward(ctx, grad):
        return (
            *_Gradients.apply(*ctx.saved_tensors, grad, *ctx.rest, is_asked_for(ctx, 2)),
            None,
            None,
        )


class _Gradients(torch.autograd.Function):
    """∂T/∂w, ∂T/∂M and, where asked for, ∂T/∂X."""

    @staticmethod
    def forward(ctx, weights, matrices, features, field, ends, convolution, by_features):
        ctx.save_for_backward(weights, matrices, features, field)
        ctx.rest = (ends, convolution)
        ctx.set_materialize_grads(False)
        given = (weights, matrices, features, field)
        sums = None
        if by_features:
            sums = convolution.sum_messages((weights, matrices, field), (), ends, 1)
        return *convolution.differentiate(given, (), ends), sums

    @staticmethod
    @once_differentiable
    def backward(ctx, *along):
        weights, matrices, features, field = ctx.saved_tensors
        ends, convolution = ctx.rest
        along = tuple(
            torch.zeros_like(like) if direction is None else direction
            for direction, like in zip(along, ctx.saved_tensors[:3], strict=True)
        )
        by_features = by_field = None
        if is_asked_for(ctx, 2):
            by_features = convolution.sum_messages((weights, matrices, field), along[:2], ends, 1)
        if is_asked_for(ctx, 3):
            by_field = convolution.sum_messages((weights, matrices, features), along, ends, 0)
        by_edges = convolution.differentiate(ctx.saved_tensors, along, ends)
        return *by_edges, by_features, by_field, *(None, None, None)


def is_asked_for(ctx: torch.autograd.function.FunctionCtx, number: int) -> bool:
    """Whether the gradient by an argument goes anywhere in the reverse pass that is going on.

    Forces ask for nothing by the weights, the gradient of a loss by the weights for nothing by the
    positions.
    """
    node, _ = ctx.next_functions[number]
    if node is None or not ctx.needs_input_grad[number]:
        return False
    return node.name().endswith("AccumulateGrad") or torch._C._will_engine_execute_node(node)


def _replaced(
    given: Sequence[torch.Tensor], along: Sequence[torch.Tensor]
) -> list[tuple[torch.Tensor, ...]]:
    """What a linear form takes for its derivative along directions: one of them in each term."""
    if not along:
        return [tuple(given)]
    return [(*given[:n], direction, *given[n + 1 :]) for n, direction in enumerate(along)]


def _of_edges(w: torch.Tensor, path: _Path, num_edges: int) -> torch.Tensor:
    own = w[:, path.weights].unsqueeze(1)
    return own if len(own) == num_edges else own.repeat(2, 1, 1)


def _matrices(m: torch.Tensor, path: _Path) -> torch.Tensor:
    return m[:, path.matrices].view(-1, path.rows, path.columns)


def _sent(x: torch.Tensor, path: _Path, ends: Ends) -> torch.Tensor:
    """Features of the sources, [num_edges, rows, channels]."""
    return x[:, path.source].index_select(0, ends.source).view(-1, path.rows, path.channels)


def _received(field: torch.Tensor, path: _Path, ends: Ends) -> torch.Tensor:
    """Field on the targets, [num_edges, columns, channels]."""
    own = field[:, path.target].index_select(0, ends.target)
    return own.view(-1, path.columns, path.channels)


def _sums(
    convolution: Convolution, given: Sequence[torch.Tensor], ends: Ends, end: int
) -> torch.Tensor:
    w, m, x = given
    result = x.new_zeros(ends.counts[end], convolution.widths[end])
    for path in convolution.paths:
        matrices, weights = _matrices(m, path), _of_edges(w, path, len(m))
        if end == 0:
            message = torch.bmm(matrices.transpose(1, 2), weights * _sent(x, path, ends))
            result[:, path.target].index_add_(0, ends.target, message.flatten(1))
        else:
            message = torch.bmm(matrices, weights * _received(x, path, ends))
            result[:, path.source].index_add_(0, ends.source, message.flatten(1))
    return result


def _by_weights(
    convolution: Convolution,
    m: torch.Tensor,
    x: torch.Tensor,
    field: torch.Tensor,
    ends: Ends,
    num_pairs: int,
) -> torch.Tensor:
    parts = []
    for path in convolution.paths:
        pulled = torch.bmm(_matrices(m, path), _received(field, path, ends))
        parts.append((pulled * _sent(x, path, ends)).sum(1))
    by_edges = torch.cat(parts, dim=1)
    return by_edges if len(by_edges) == num_pairs else by_edges[:num_pairs] + by_edges[num_pairs:]


def _by_matrices(
    convolution: Convolution, w: torch.Tensor, x: torch.Tensor, field: torch.Tensor, ends: Ends
) -> torch.Tensor:
    parts = []
    for path in convolution.paths:
        sent = _of_edges(w, path, ends.target.numel()) * _sent(x, path, ends)
        parts.append(torch.bmm(sent, _received(field, path, ends).transpose(1, 2)).flatten(1))
    return torch.cat(parts, dim=1)
