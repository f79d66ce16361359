"""Expansions of atomic neighbourhoods in radial functions and harmonics, by operators.

    a[i, lm, t, k] = Σ_j R_lk(r_ij) Y_lm(r̂_ij),   over the neighbours j of type t

The radial functions come as jets, values and slopes by the length, whose derivative by the length
nobody takes: the operator has the gradient by the vectors at once, as a function of both. So a
network of the length is differentiated once, by its weights, and not three times.

What a loss wants by the jets depends on two cotangents, that of the gradient by the vectors and
that of the expansion. Autograd brings the former first; it waits with the graph's node until the
latter is there, so that both take one walk through the pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from kan_md.errors import KanMdError
from kan_md.forms.convolutions import is_asked_for
from kan_md.forms.edge_functions import THIRD_DERIVATIVES
from kan_md.forms.harmonics import HarmonicsChain
from kan_md.ops import function_sums
from kan_md.ops.layout import block_of

HIGHEST_DEGREE = 4  # kMaxL in kan_md/ops/spherical_harmonics.h

Curves = Callable[[], torch.Tensor]


def has_operators(vectors: torch.Tensor) -> bool:
    """Whether the operators are there for such vectors."""
    there = hasattr(function_sums.operators_for(vectors), "expansion")
    return there and vectors.dtype == torch.float64


@dataclass(frozen=True)
class Neighbourhoods:
    """Which pairs of atoms belong to which sums, as the operators take it.

    Attributes:
        order: edges of each sum, one sum after the other.
        first: [sums + 1], where they begin.
        of_edge: [num_edges], number of the sum, centre * num_types + type of the neighbour.
        num_types: of neighbours.
    """

    order: torch.Tensor
    first: torch.Tensor
    of_edge: torch.Tensor
    num_types: int

    @classmethod
    def of(
        cls, centre: torch.Tensor, types: torch.Tensor, *, num_atoms: int, num_types: int
    ) -> Neighbourhoods:
        """Of edges, which are all pairs, or those and then the same turned round.

        Args:
            centre: [num_edges].
            types: [num_edges], of the neighbours.
            num_atoms: of all frames.
            num_types: of the model.
        """
        of_edge = centre * num_types + types
        count = torch.bincount(of_edge, minlength=num_atoms * num_types)
        first = torch.nn.functional.pad(torch.cumsum(count, 0), (1, 0))
        return cls(torch.argsort(of_edge, stable=True), first, of_edge, num_types)

    @property
    def arguments(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """For the operators."""
        return self.order, self.first, self.of_edge, self.num_types


def expand(
    vectors: torch.Tensor, jets: torch.Tensor, neighbourhoods: Neighbourhoods, *, curves: Curves
) -> torch.Tensor:
    """The expansion, [num_atoms, (l_max + 1)², num_types, channels].

    Args:
        vectors: [num_pairs, 3] float64, Å.
        jets: [2, num_pairs, l_max + 1, channels], values and slopes by the length; whatever
            depends on the vectors in them is not differentiated.
        neighbourhoods: which pairs are summed.
        curves: gives second derivatives by the length, [num_pairs, l_max + 1, channels], where a
            loss that holds gradients by the vectors is differentiated by vectors.
    """
    channels, l_max = jets.size(3), jets.size(2) - 1
    missing = -channels % block_of(jets.dtype)
    padded = torch.nn.functional.pad(jets, (0, missing)) if missing else jets
    a = _Expansion.apply(
        vectors.contiguous(), padded.flatten(2).contiguous(), neighbourhoods, l_max, curves
    )
    return a[..., :channels] if missing else a


class _Expansion(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vectors, jets, neighbourhoods, l_max, curves):
        a = torch.ops.kan_md.expansion(vectors, None, jets, *neighbourhoods.arguments, l_max)
        ctx.save_for_backward(vectors, jets, a)
        ctx.of, ctx.curves = (neighbourhoods, l_max), curves
        ctx.waiting = []  # fields, and the vectors that multiply their gradients
        return a

    @staticmethod
    def backward(ctx, field):
        vectors, jets, a = ctx.saved_tensors
        waiting, ctx.waiting[:] = list(ctx.waiting), []
        by_jets = is_asked_for(ctx, 1)
        if not waiting and not by_jets:
            gradient = _Gradient.apply(field, a, vectors, jets, ctx.of, ctx.waiting)
            return gradient, None, None, None, None
        if torch.is_grad_enabled():
            raise KanMdError(THIRD_DERIVATIVES)
        given = (vectors, jets, *ctx.of)
        waiting = waiting or [(None, None)]
        by_vectors = None
        if is_asked_for(ctx, 0):
            by_vectors = _gradient_by_vectors(*given, field, waiting, ctx.curves())
        return by_vectors, _gradient_by_jets(*given, field, waiting) if by_jets else None, *_NONE


class _Gradient(torch.autograd.Function):
    """By the vectors. ``a`` is an argument so that its node is reached behind this one."""

    @staticmethod
    def forward(ctx, field, a, vectors, jets, of, waiting):
        ctx.save_for_backward(field, vectors, jets)
        ctx.of, ctx.waiting = of, waiting
        neighbourhoods, l_max = of
        return torch.ops.kan_md.expansion_gradient(
            field.contiguous(), vectors, jets, *neighbourhoods.arguments, l_max
        )

    @staticmethod
    def backward(ctx, along):
        if torch.is_grad_enabled():
            raise KanMdError(THIRD_DERIVATIVES)
        field, vectors, jets = ctx.saved_tensors
        neighbourhoods, l_max = ctx.of
        along = along.contiguous()
        if is_asked_for(ctx, 1):
            ctx.waiting.append((field, along))
        change = None
        if is_asked_for(ctx, 0):
            change = torch.ops.kan_md.expansion(
                vectors, along, jets, *neighbourhoods.arguments, l_max
            )
        return change, *_NONE, None, None


_NONE = (None, None, None)

_Waiting = list[tuple[torch.Tensor | None, torch.Tensor | None]]


def _gradient_by_jets(
    vectors: torch.Tensor,
    jets: torch.Tensor,
    neighbourhoods: Neighbourhoods,
    l_max: int,
    of_loss: torch.Tensor,
    waiting: _Waiting,
) -> torch.Tensor:
    total = None
    for field, along in waiting:
        field = None if field is None else field.contiguous()
        share = torch.ops.kan_md.expansion_jets(
            of_loss.contiguous(), field, vectors, along, *neighbourhoods.arguments, l_max
        )
        total = share if total is None else total + share
        of_loss = torch.zeros_like(of_loss)  # it counts once
    return total


def _gradient_by_vectors(
    vectors: torch.Tensor,
    jets: torch.Tensor,
    neighbourhoods: Neighbourhoods,
    l_max: int,
    of_loss: torch.Tensor,
    waiting: _Waiting,
    curves: torch.Tensor,
) -> torch.Tensor:
    """In plain torch, by Taylor series of the radial functions at the lengths that there are.

    A step of ``kan-md train`` has no use for it: gradients are taken by the parameters alone there.
    """
    num_pairs, chain = len(vectors), HarmonicsChain(l_max, dtype=vectors.dtype)
    chain = chain.to(vectors.device)
    degree = torch.tensor([l for l in range(l_max + 1) for _ in range(2 * l + 1)])  # noqa: E741
    values, slopes = (jet.double().unflatten(1, (l_max + 1, -1)) for jet in jets)
    missing = values.size(2) - curves.size(2)
    curves = torch.nn.functional.pad(curves.double(), (0, missing))

    def of_pairs(field: torch.Tensor) -> torch.Tensor:  # [num_pairs, components, channels]
        rows = field.double().transpose(1, 2).flatten(0, 1).index_select(0, neighbourhoods.of_edge)
        if len(rows) == num_pairs:
            return rows
        signs = (-1.0) ** degree.double().view(1, -1, 1)
        return rows[:num_pairs] + signs * rows[num_pairs:]

    with torch.enable_grad():
        moved = vectors.detach().requires_grad_()
        length = moved.norm(dim=1)
        step = (length - length.detach()).view(-1, 1, 1)
        radial = values + step * (slopes + 0.5 * step * curves)
        harmonics = chain(moved / length.unsqueeze(1)).unsqueeze(2)
        terms = radial.index_select(1, degree) * harmonics
        total = (terms * of_pairs(of_loss)).sum()
        for field, along in waiting:
            if field is not None:
                (gradient,) = torch.autograd.grad(
                    (terms * of_pairs(field)).sum(), moved, create_graph=True
                )
                total = total + (gradient * along).sum()
        (result,) = torch.autograd.grad(total, moved)
    return result
