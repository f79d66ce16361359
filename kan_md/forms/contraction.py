"""MACE's symmetric contraction as a polynomial whose coefficients are made once per step.

    out_m = Σ_ν Σ_{i1..iν} U^ν[m, i1..iν, p] w^ν[z, p, c] A_i1 … A_iν

U w is one coefficient per monomial i <= j <= k. An operator walks through the monomials that there
are. In plain torch, with rows r = i and r = (i, j),

    out_m = Σ_r Q_r Σ_k P[z, c, m, r, k] (1, A)_k,   Q = (A_i, A_i A_j),

is one batched product for all channels and atoms of a type.
"""

from __future__ import annotations

import torch
from e3nn.o3 import Irreps
from torch.autograd.function import once_differentiable

from kan_md.ops import function_sums
from kan_md.ops.layout import Monomial, make_polynomial

_HIGHEST_CORRELATION = 3
_MOST_COMPONENTS = 64  # kMaxComponents in kan_md/ops/polynomial_kernels.h
_NOISE = {torch.float32: 1e-7, torch.float64: 1e-13}
"""Entries of a coupling tensor below this share of the largest are rounding errors."""


def knows_contraction(product: torch.nn.Module) -> bool:
    """Whether :class:`Contraction` computes the contraction of a product basis."""
    parts = getattr(product.symmetric_contractions, "contractions", None)
    if parts is None or any(part.correlation > _HIGHEST_CORRELATION for part in parts):
        return False
    kinds = [ir for _, ir in Irreps(product.symmetric_contractions.irreps_out)]
    return len(set(kinds)) == len(kinds)


class Contraction:
    """The polynomial of a contraction; parameters are read at every call.

    Args:
        product: upstream's product basis, that :func:`knows_contraction` knows.
    """

    def __init__(self, product: torch.nn.Module):
        self._parts = tuple(product.symmetric_contractions.contractions)
        self._num_components = self._parts[0].coupling_irreps.dim
        self._num_outputs, terms, couplings = 0, [], []
        for part in self._parts:
            num_outputs, found = _monomials(part)
            for places, coupling in found:
                terms += [(self._num_outputs + m, tuple(of)) for m, *of in places.tolist()]
                couplings.append(coupling)
            self._num_outputs += num_outputs
        self._couplings = couplings  # [monomials, p] for each weight
        self._nest = _Nest(terms, self._num_outputs)
        self._dense = _Dense(terms, self._num_components, self._num_outputs)

    def __call__(self, a: torch.Tensor, types: list[tuple[int, int]]) -> torch.Tensor:
        """Evaluate for atoms that are sorted by type.

        Args:
            a: [num_atoms, components, channels].
            types: number and count of the types that there are, in order.

        Returns:
            [num_atoms, outputs, channels].
        """
        self._move_to(a)
        weights = [w for part in self._parts for w in (part.weights_max, *part.weights)]
        if len(weights[0]) == 1:  # for all elements
            types = [(0, a.size(0))]
        chosen = [z for z, _ in types]
        if len(chosen) < len(weights[0]):
            weights = [weight[chosen] for weight in weights]
        values = torch.cat(
            [c @ weight for c, weight in zip(self._couplings, weights, strict=True)], dim=1
        )  # [types, monomials, channels]
        counts = [count for _, count in types]
        operators = function_sums.operators_for(a)
        if self._num_components <= _MOST_COMPONENTS and hasattr(operators, "contraction_along"):
            values = values.index_select(1, self._nest.order)
            first = torch.tensor([0, *counts]).cumsum(0)
            return _Polynomial.apply(
                a.contiguous(), values, first, self._nest.program, self._num_outputs
            )
        pieces = torch.split(a.permute(2, 1, 0), counts, dim=2)
        results = [
            self._dense.evaluate(v.t(), piece) for v, piece in zip(values, pieces, strict=True)
        ]
        return torch.cat(results, dim=2).permute(2, 1, 0)

    def _move_to(self, like: torch.Tensor) -> None:
        known = self._couplings[0]
        if known.dtype != like.dtype or known.device != like.device:
            self._couplings = [coupling.to(like) for coupling in self._couplings]
            self._nest.order = self._nest.order.to(like.device)
            self._dense.pairs = self._dense.pairs.to(like.device)
            self._dense.places = self._dense.places.to(like.device)


class _Polynomial(torch.autograd.Function):
    """By the operators: value, gradients, and these along a direction of the features."""

    @staticmethod
    def forward(ctx, a, coefficients, first, program, outputs):
        ctx.save_for_backward(a, coefficients)
        ctx.rest = (first, program)
        coefficients = coefficients.contiguous()
        operators = function_sums.operators_for(a)
        return operators.contraction(a, coefficients, first, program, outputs)

    @staticmethod
    def backward(ctx, grad):
        return *_Gradients.apply(grad, *ctx.saved_tensors, *ctx.rest), None, None, None


class _Gradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx, field, a, coefficients, first, program):
        ctx.save_for_backward(field, a, coefficients)
        ctx.rest = (first, program)
        ctx.set_materialize_grads(False)
        operators = function_sums.operators_for(a)
        given = (t.contiguous() for t in (field, a, coefficients))
        return operators.contraction_gradients(*given, first, program)

    @staticmethod
    @once_differentiable
    def backward(ctx, along, by_coefficients):
        if by_coefficients is not None:
            raise NotImplementedError(
                "gradients by the weights of a contraction are not differentiated again; "
                "training.form: upstream does that"
            )
        if along is None:
            return None, None, None, None, None
        field, a, coefficients = ctx.saved_tensors
        operators = function_sums.operators_for(a)
        given = (t.contiguous() for t in (along, field, a, coefficients))
        return *operators.contraction_along(*given, *ctx.rest), None, None


class _Nest:
    """The monomials in the order in which the operators walk.

    Args:
        terms: output and components of each.
        num_outputs: number of outputs.

    Attributes:
        program: of the operators.
        order: number of the term that each coefficient belongs to.
    """

    def __init__(self, terms: list[tuple[int, Monomial]], num_outputs: int):
        outputs: list[list[Monomial]] = [[] for _ in range(num_outputs)]
        for output, monomial in terms:
            outputs[output].append(monomial)
        polynomial = make_polynomial(outputs)
        number = {term: n for n, term in enumerate(terms)}
        self.program = polynomial.program
        self.order = torch.tensor([number[term] for term in polynomial.terms])


class _Dense:
    """The monomials as rows times columns.

    Args:
        terms: output and components of each.
        num_components: of the features.
        num_outputs: number of outputs.
    """

    def __init__(self, terms: list[tuple[int, Monomial]], num_components: int, num_outputs: int):
        pairs = sorted({of[:2] for _, of in terms if len(of) == 3})
        self.pairs = torch.tensor(pairs).view(-1, 2).t().contiguous()
        row_of = {pair: num_components + number for number, pair in enumerate(pairs)}
        rows, columns = num_components + len(pairs), 1 + num_components
        self.shape = (num_outputs, rows, columns)
        places = []
        for output, of in terms:
            row = row_of[of[:2]] if len(of) == 3 else of[0]
            column = 1 + of[-1] if len(of) > 1 else 0
            places.append((output * rows + row) * columns + column)
        self.places = torch.tensor(places)

    def evaluate(self, values: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Outputs [channels, outputs, num_atoms] from features, likewise.

        Args:
            values: [channels, monomials], their coefficients.
            a: [channels, components, num_atoms].
        """
        num_outputs, num_rows, num_columns = self.shape
        size = num_outputs * num_rows * num_columns
        p = values.new_zeros(values.size(0), size).index_copy(1, self.places, values)
        columns = torch.cat([a.new_ones(a.size(0), 1, a.size(2)), a], dim=1)
        inner = torch.bmm(p.view(-1, num_outputs * num_rows, num_columns), columns)
        rows = a
        if self.pairs.size(1):
            first, second = (a.index_select(1, own) for own in self.pairs)
            rows = torch.cat([a, first * second], dim=1)
        return (inner.view(-1, num_outputs, num_rows, a.size(2)) * rows.unsqueeze(1)).sum(2)


def _monomials(part: torch.nn.Module) -> tuple[int, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Number of outputs; monomials [n, 1 + ν] (output, components in order), couplings [n, p].

    In the order of the part's weights, highest ν first.
    """
    found = []
    for degree in range(part.correlation, 0, -1):
        coupling = part.U_tensors(degree)
        noise = _NOISE[coupling.dtype] * coupling.abs().max()
        coupling = coupling.detach().cpu().double()
        if coupling.dim() == degree + 1:  # upstream drops the dimension of a scalar's component
            coupling = coupling.unsqueeze(0)
        flat = coupling.flatten(0, -2)
        kept = (flat.abs().amax(1) > noise).nonzero().flatten()
        places = torch.stack(torch.unravel_index(kept, coupling.shape[:-1]), dim=1)
        places = torch.cat([places[:, :1], places[:, 1:].sort(dim=1)[0]], dim=1)
        monomials, inverse = torch.unique(places, dim=0, return_inverse=True)
        sums = flat.new_zeros(len(monomials), flat.size(1)).index_add(0, inverse, flat[kept])
        found.append((monomials, sums))
    return coupling.size(0), found
