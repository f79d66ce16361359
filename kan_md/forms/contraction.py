"""MACE's symmetric contraction as a polynomial whose coefficients are made once per step.

    out_m = Σ_ν Σ_{i1..iν} U^ν[m, i1..iν, p] w^ν[z, p, c] A_i1 … A_iν

With equal monomials collected, i <= j <= k, and rows r = i and r = (i, j), this is

    out_m = Σ_r Q_r Σ_k P[z, c, m, r, k] (1, A)_k,   Q = (A_i, A_i A_j),

one batched product for all channels and atoms of a type.
"""

from __future__ import annotations

import torch
from e3nn.o3 import Irreps

HIGHEST_CORRELATION = 3
_NOISE = {torch.float32: 1e-7, torch.float64: 1e-13}
"""Entries of a coupling tensor below this share of the largest are rounding errors."""


def knows_contraction(product: torch.nn.Module) -> bool:
    """Whether :class:`Contraction` computes the contraction of a product basis."""
    parts = getattr(product.symmetric_contractions, "contractions", None)
    if parts is None or any(part.correlation > HIGHEST_CORRELATION for part in parts):
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
        self.num_components = self._parts[0].coupling_irreps.dim
        monomials = [_monomials(part) for part in self._parts]
        cubic = [of[:, 1:3] for _, terms in monomials for of, _ in terms if of.size(1) == 4]
        pairs = torch.unique(torch.cat(cubic), dim=0) if cubic else torch.zeros(0, 2).long()
        self.pairs = pairs.t().contiguous()
        row_of_pair = {tuple(pair): number for number, pair in enumerate(pairs.tolist())}
        self.num_rows = self.num_components + len(pairs)
        self.num_columns = 1 + self.num_components
        self.num_outputs, places, self._couplings = 0, [], []
        for dim, terms in monomials:
            for of, coupling in terms:
                output = self.num_outputs + of[:, 0]
                if of.size(1) == 4:
                    rows = [row_of_pair[tuple(pair)] for pair in of[:, 1:3].tolist()]
                    row = self.num_components + torch.tensor(rows)
                else:
                    row = of[:, 1]
                column = 1 + of[:, -1] if of.size(1) > 2 else torch.zeros_like(row)
                places.append((output * self.num_rows + row) * self.num_columns + column)
                self._couplings.append(coupling)
            self.num_outputs += dim
        self._places = torch.cat(places)

    def __call__(self, a: torch.Tensor, types: list[tuple[int, int]]) -> torch.Tensor:
        """Evaluate for atoms that are sorted by type.

        Args:
            a: [channels, components, num_atoms].
            types: number and count of the types that there are, in order.

        Returns:
            [channels, outputs, num_atoms].
        """
        results, start = [], 0
        coefficients = self._coefficients(types, a)
        if len(coefficients) == 1:
            types = [(0, a.size(2))]
        for (_, count), p in zip(types, coefficients, strict=True):
            results.append(self._evaluate(p, a.narrow(2, start, count)))
            start += count
        return torch.cat(results, dim=2)

    def _coefficients(self, types: list[tuple[int, int]], like: torch.Tensor) -> list[torch.Tensor]:
        """[channels, outputs * rows, columns] of each type, or of all."""
        self._move_to(like.device, like.dtype)
        weights = [w for part in self._parts for w in (part.weights_max, *part.weights)]
        size = self.num_outputs * self.num_rows * self.num_columns
        number = [0] if len(weights[0]) == 1 else [number for number, _ in types]
        found = []
        for z in number:
            values = [
                coupling @ weight[z]
                for coupling, weight in zip(self._couplings, weights, strict=True)
            ]  # [monomials, channels]
            values = torch.cat(values).t()
            p = values.new_zeros(values.size(0), size).index_copy(1, self._places, values)
            found.append(p.view(p.size(0), self.num_outputs * self.num_rows, self.num_columns))
        return found

    def _move_to(self, device: torch.device, dtype: torch.dtype) -> None:
        if self._places.device != device or self._couplings[0].dtype != dtype:
            self._places, self.pairs = self._places.to(device), self.pairs.to(device)
            self._couplings = [coupling.to(device, dtype) for coupling in self._couplings]

    def _evaluate(self, p: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        columns = torch.cat([a.new_ones(a.size(0), 1, a.size(2)), a], dim=1)
        inner = torch.bmm(p, columns)
        inner = inner.view(a.size(0), self.num_outputs, self.num_rows, a.size(2))
        rows = a
        if self.pairs.size(1):
            first, second = (a.index_select(1, own) for own in self.pairs)
            rows = torch.cat([a, first * second], dim=1)
        return (inner * rows.unsqueeze(1)).sum(2)


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
