"""MACE's symmetric contraction as one polynomial: couplings and weights multiplied out.

    out_m = Σ_ν Σ_{i1..iν} U^ν[m, i1..iν, p] w^ν[z, p, c] A_i1 … A_iν

U and w are frozen, so their product is one coefficient per monomial, and the permutations of its
components add up.
"""

from __future__ import annotations

import torch
from e3nn import o3

from kan_md.ops.layout import Monomial, make_polynomial, pack_coefficients
from kan_md.ops.modules import PolynomialOfComponents

_HIGHEST_CORRELATION = 3
_NOISE = {torch.float32: 1e-7, torch.float64: 1e-13}
"""Entries of a coupling tensor below this share of the largest are rounding errors."""


def can_multiply_out(product: torch.nn.Module) -> bool:
    """Whether the contraction is upstream's own and every irreps comes once, scalars included."""
    if not hasattr(product.symmetric_contractions, "contractions"):
        return False
    contractions = product.symmetric_contractions.contractions
    if any(part.correlation > _HIGHEST_CORRELATION for part in contractions):
        return False
    irreps = o3.Irreps(product.linear.irreps_out)
    return len({ir for _, ir in irreps}) == len(irreps) and (0, 1) in {
        (ir.l, ir.p) for _, ir in irreps
    }


def polynomial_of(
    product: torch.nn.Module, *, num_types: int, dtype: torch.dtype
) -> PolynomialOfComponents:
    """The symmetric contraction with coupling tensors and weights multiplied out."""
    contraction = product.symmetric_contractions
    program, coefficients = _packed(list(contraction.contractions), num_types, dtype)
    return PolynomialOfComponents(
        program,
        coefficients,
        components=[ir.dim for _, ir in o3.Irreps(contraction.irreps_in)],
        outputs=[ir.dim for _, ir in o3.Irreps(contraction.irreps_out)],
    )


def polynomial_of_scalars(
    product: torch.nn.Module, *, num_types: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Program and coefficients of the invariant scalars that a contraction gives."""
    contraction = product.symmetric_contractions
    kinds = [ir for _, ir in o3.Irreps(contraction.irreps_out)]
    scalars = contraction.contractions[kinds.index(o3.Irrep(0, 1))]
    return _packed([scalars], num_types, dtype)


def _packed(
    contractions: list[torch.nn.Module], num_types: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Program and coefficients of all components that some contractions give."""
    outputs: list[dict[Monomial, torch.Tensor]] = []
    for part in contractions:
        outputs += _monomials(part)
    nest = make_polynomial([list(output) for output in outputs])
    values = torch.stack([outputs[output][monomial] for output, monomial in nest.terms], dim=1)
    values = values.expand(num_types, -1, -1)  # one row if the product ignores the element
    return nest.program, pack_coefficients(values.to(dtype))


def _monomials(contraction: torch.nn.Module) -> list[dict[Monomial, torch.Tensor]]:
    """Coefficients [num_elements, channels] of each monomial, for each component of one irreps."""
    highest = contraction.correlation
    weights = [contraction.weights_max, *contraction.weights]
    by_output: list[dict[Monomial, torch.Tensor]] = []
    for degree, weight in zip(range(highest, 0, -1), weights, strict=True):
        coupling = contraction.U_tensors(degree)
        noise = _NOISE[coupling.dtype] * coupling.abs().max()
        coupling = coupling.detach().double()
        if coupling.dim() == degree + 1:  # upstream drops the dimension of a scalar's component
            coupling = coupling.unsqueeze(0)
        by_output = by_output or [{} for _ in range(coupling.size(0))]
        for (m, *indices), row in _entries(coupling, noise):
            monomial = tuple(sorted(indices))
            value = torch.einsum("p,zpc->zc", row, weight.detach().double())
            known = by_output[m].get(monomial)
            by_output[m][monomial] = value if known is None else known + value
    return by_output


def _entries(coupling: torch.Tensor, noise: float) -> list[tuple[list[int], torch.Tensor]]:
    """Index and parameters of the entries that are more than rounding errors."""
    flat = coupling.flatten(0, -2)
    shape = coupling.shape[:-1]
    kept = (flat.abs().amax(1) > noise).nonzero().flatten()
    places = torch.stack(torch.unravel_index(kept, shape), dim=1)
    return list(zip(places.tolist(), flat[kept], strict=True))
