"""MACE's symmetric contraction as one polynomial: couplings and weights multiplied out.

    out_m = Σ_ν Σ_{i1..iν} U^ν[m, i1..iν, p] w^ν[z, p, c] A_i1 … A_iν

U and w are frozen, so their product is one coefficient per monomial, and the permutations of its
components add up.
"""

from __future__ import annotations

import torch
from e3nn import o3

from kan_md.ops.chosen_types import PolynomialOfChosen
from kan_md.ops.layout import Monomial, make_polynomial, pack_coefficients
from kan_md.ops.modules import PolynomialOfComponents
from kan_md_deploy.passes.tables.size import MOST_IN_FILE

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
    product: torch.nn.Module, *, num_types: int, dtype: torch.dtype, can_choose: bool = False
) -> PolynomialOfComponents | PolynomialOfChosen:
    """The symmetric contraction with coupling tensors and weights multiplied out.

    There are several times as many products as weights: a file of many elements that may choose
    them multiplies them out for the chosen ones only.

    Args:
        product: the adapter's or upstream's product basis.
        num_types: number of atom types.
        dtype: of the model.
        can_choose: whether the file may do this when elements are chosen.
    """
    contraction = product.symmetric_contractions
    parts = list(contraction.contractions)
    sizes = {
        "components": [ir.dim for _, ir in o3.Irreps(contraction.irreps_in)],
        "outputs": [ir.dim for _, ir in o3.Irreps(contraction.irreps_out)],
    }
    if can_choose and num_types**2 > MOST_IN_FILE and parts[0].weights_max.size(0) == num_types:
        program, couplings, weights = _couplings_and_weights(parts)
        return PolynomialOfChosen(program, couplings, weights.to(dtype), **sizes)
    return PolynomialOfComponents(*_packed(parts, num_types, dtype), **sizes)


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
    program, couplings, weights = _couplings_and_weights(contractions)
    values = torch.matmul(couplings, weights)
    values = values.expand(num_types, -1, -1)  # one row if the product ignores the element
    return program, pack_coefficients(values.to(dtype))


def _couplings_and_weights(
    contractions: list[torch.nn.Module],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Program; [num_terms, num_paths] and [num_elements, num_paths, channels], float64.

    The product of the last two are the coefficients of the terms.
    """
    outputs: list[dict[Monomial, torch.Tensor]] = []
    weights = [_weights(part) for part in contractions]
    num_paths = sum(weight.size(1) for weight in weights)
    start = 0
    for part, weight in zip(contractions, weights, strict=True):
        outputs += _monomials(part, start, num_paths)
        start += weight.size(1)
    nest = make_polynomial([list(output) for output in outputs])
    couplings = torch.stack([outputs[output][monomial] for output, monomial in nest.terms])
    return nest.program, couplings, torch.cat(weights, dim=1)


def _weights(contraction: torch.nn.Module) -> torch.Tensor:
    """[num_elements, num_paths, channels] float64, the highest correlation first."""
    parts = [contraction.weights_max, *contraction.weights]
    return torch.cat([part.detach().double() for part in parts], dim=1)


def _monomials(
    contraction: torch.nn.Module, start: int, num_paths: int
) -> list[dict[Monomial, torch.Tensor]]:
    """What each path adds to each monomial, [num_paths], for each component of one irreps.

    Args:
        contraction: upstream's, of the paths from ``start`` on.
        start: see there.
        num_paths: of all contractions.
    """
    by_output: list[dict[Monomial, torch.Tensor]] = []
    for degree in range(contraction.correlation, 0, -1):
        coupling = contraction.U_tensors(degree)
        noise = _NOISE[coupling.dtype] * coupling.abs().max()
        coupling = coupling.detach().double()
        if coupling.dim() == degree + 1:  # upstream drops the dimension of a scalar's component
            coupling = coupling.unsqueeze(0)
        by_output = by_output or [{} for _ in range(coupling.size(0))]
        end = start + coupling.size(-1)
        for (m, *indices), row in _entries(coupling, noise):
            monomial = tuple(sorted(indices))
            if monomial not in by_output[m]:
                by_output[m][monomial] = torch.zeros(num_paths, dtype=torch.float64)
            by_output[m][monomial][start:end] += row
        start = end
    return by_output


def _entries(coupling: torch.Tensor, noise: float) -> list[tuple[list[int], torch.Tensor]]:
    """Index and parameters of the entries that are more than rounding errors."""
    flat = coupling.flatten(0, -2)
    shape = coupling.shape[:-1]
    kept = (flat.abs().amax(1) > noise).nonzero().flatten()
    places = torch.stack(torch.unravel_index(kept, shape), dim=1)
    return list(zip(places.tolist(), flat[kept], strict=True))
