"""Bessel functions with their cutoff and spherical harmonics of edges, by an operator.

Both are functions of the edge vector alone, [num_edges, 3] to a few numbers each, in float64. Their
derivatives in torch are a hundred small steps; the operator (kan_md/ops/edge_functions.cpp) has
them, and the derivatives of those, written out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from nequip.nn.embedding import (
    BesselEdgeLengthEncoding,
    EdgeLengthNormalizer,
    PolynomialCutoff,
)

from kan_md.errors import KanMdError
from kan_md.forms.convolutions import is_asked_for
from kan_md.forms.harmonics import raising_matrices
from kan_md.ops import function_sums

THIRD_DERIVATIVES = "third derivatives of the fast form, got none; set training.form: upstream"
"""Message where the operators have none."""


class EdgeFunctions(NamedTuple):
    """Which functions there are, as the operator takes them.

    Attributes:
        inverse_cutoffs: [pairs or 1] float64, 1/Å.
        matrices: of :func:`kan_md.forms.harmonics.raising_matrices`, in a row.
        l_max: highest degree of the harmonics.
        num_bessels: number of radial functions.
        power: p of the cutoff's polynomial.
    """

    inverse_cutoffs: torch.Tensor
    matrices: torch.Tensor
    l_max: int
    num_bessels: int
    power: int


def edge_functions_of(
    norm: torch.nn.Module, bessel: torch.nn.Module, l_max: int
) -> EdgeFunctions | None:
    """What two of upstream's modules compute; None where the operator has no such functions.

    Args:
        norm: what divides lengths by cutoffs.
        bessel: what follows.
        l_max: highest degree of the plain harmonics beside.
    """
    cutoff = getattr(bessel, "cutoff", None)
    if (
        type(norm) is not EdgeLengthNormalizer
        or type(bessel) is not BesselEdgeLengthEncoding
        or bessel.trainable
        or type(cutoff) is not PolynomialCutoff
        or not cutoff.p.is_integer()
    ):
        return None
    matrices = [matrix.flatten() for matrix in raising_matrices(l_max)]
    return EdgeFunctions(
        norm._rmax_recip.reshape(-1),
        torch.cat([torch.empty(0, dtype=torch.float64), *matrices]),
        l_max,
        bessel.num_bessels,
        int(cutoff.p),
    )


def has_operator(vectors: torch.Tensor) -> bool:
    """Whether the operator is here for such vectors."""
    there = hasattr(function_sums.operators_for(vectors), "edge_functions_backward")
    return there and vectors.dtype == torch.float64


def edge_functions(
    vectors: torch.Tensor, pair: torch.Tensor, functions: EdgeFunctions, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Radial functions [num_edges, num_bessels] and harmonics [num_edges, (l_max + 1)²].

    Args:
        vectors: [num_edges, 3] float64, Å.
        pair: [num_edges], of types.
        functions: which.
        dtype: of the results.
    """
    if functions.inverse_cutoffs.numel() == 1:
        pair = torch.zeros_like(pair)
    return _Values.apply(vectors.contiguous(), pair.contiguous(), functions, dtype)


class _Values(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vectors, pair, functions, dtype):
        ctx.save_for_backward(vectors)
        ctx.of = pair, functions
        return torch.ops.kan_md.edge_functions(vectors, None, pair, *functions, dtype)

    @staticmethod
    def backward(ctx, radial_grad, harmonics_grad):
        (vectors,) = ctx.saved_tensors
        return _Gradient.apply(radial_grad, harmonics_grad, vectors, *ctx.of), None, None, None


class _Gradient(torch.autograd.Function):
    """Jacobian transposed times gradients, [num_edges, 3]."""

    @staticmethod
    def forward(ctx, radial_grad, harmonics_grad, vectors, pair, functions):
        gradients = radial_grad.contiguous(), harmonics_grad.contiguous()
        ctx.save_for_backward(*gradients, vectors)
        ctx.of = pair, functions
        return torch.ops.kan_md.edge_functions_backward(*gradients, vectors, None, pair, *functions)

    @staticmethod
    def backward(ctx, tangents):
        variables = tangents, *ctx.saved_tensors, *ctx.of
        # A loss is differentiated by parameters, and the vectors do not depend on them.
        return *_Slopes.apply(*variables, is_asked_for(ctx, 2)), None, None


class _Slopes(torch.autograd.Function):
    """Derivatives of tangents times that gradient: by the gradients, and by the vectors."""

    @staticmethod
    def forward(ctx, tangents, radial_grad, harmonics_grad, vectors, pair, functions, by_vectors):
        operators, tangents = torch.ops.kan_md, tangents.contiguous()
        slopes = operators.edge_functions(vectors, tangents, pair, *functions, radial_grad.dtype)
        if not by_vectors:
            return *slopes, None
        gradient = operators.edge_functions_backward(
            radial_grad, harmonics_grad, vectors, tangents, pair, *functions
        )
        return *slopes, gradient

    @staticmethod
    def backward(ctx, *grads):
        raise KanMdError(THIRD_DERIVATIVES)
