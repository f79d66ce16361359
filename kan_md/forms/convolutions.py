"""Equivariant convolutions whose derivatives of any order are made by each other.

A message is linear in the weights w of an edge, its harmonics Y and its neighbour's features X.
With a field G on the centres, all that training needs are the derivatives of

    T = Σ_e Σ_paths Σ_ijk C_ijk Y[e,i] Σ_u w[e,u] X[source(e),j,u] G[target(e),k,u],

linear in each of the four: ∂T/∂G is the convolution, ∂T/∂X the same with the ends of the edges
exchanged, and the derivatives of each are the others with another argument. The operators walk
through the edges, so nothing of the size edges × components × channels is made or kept.
"""

from __future__ import annotations

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
        self.atoms = (target.contiguous(), source.contiguous())
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
        self.tables = (
            (forth, three, numbers),
            (back, three[:, [0, 2, 1]].contiguous(), numbers),
        )
        self.widths = (product.irreps_out.dim, product.irreps_in1.dim)  # at target and source
        self.num_weights = weight
        self.num_components = product.irreps_in2.dim

    def __call__(
        self, features: torch.Tensor, harmonics: torch.Tensor, weights: torch.Tensor, ends: Ends
    ) -> torch.Tensor:
        """Sums of messages, [num_atoms, irreps], in e3nn's layout like the features."""
        x = features.index_select(1, self.permutation_in)
        y = _Sums.apply(weights, harmonics, x, ends, self, 0)
        return y.index_select(1, self.permutation_out)


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
    """∂T/∂G, or ∂T/∂X: sums on the atoms at one end, from features at the other."""

    @staticmethod
    def forward(ctx, weights, harmonics, features, ends, convolution, end):
        ctx.save_for_backward(weights, harmonics, features)
        ctx.ends, ctx.convolution, ctx.end = ends, convolution, end
        operators = function_sums.operators_for(weights)
        given = (t.contiguous() for t in (weights, harmonics, features))
        table, width = convolution.tables[end], convolution.widths[end]
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
        operators = function_sums.operators_for(harmonics)
        given = (t.contiguous() for t in (harmonics, features, field))
        places = (ends.atoms[1], ends.atoms[0], *convolution.tables[0])
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
        operators = function_sums.operators_for(weights)
        given = (t.contiguous() for t in (weights, features, field))
        places = (ends.atoms[1], ends.atoms[0], *convolution.tables[0])
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
