"""Reading linear maps and couplings out of e3nn modules, in float64 and by their action.

A module is asked what it does to basis vectors instead of how it stores its weights: that holds
for any normalisation and layout of weights. An equivariant linear map acts on every component of
an irreps alike, so the first component tells all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from e3nn import o3

from kan_md.ops.modules import Irreps


def in_float64(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of a module in double precision, without gradients."""
    return copy.deepcopy(module).double().requires_grad_(False)


def first_components(irreps: o3.Irreps) -> torch.Tensor:
    """Basis vectors [channels of all irreps, dim]: m = 0 of each channel."""
    rows = []
    for part, (channels, ir) in zip(irreps.slices(), irreps, strict=True):
        for channel in range(channels):
            row = torch.zeros(irreps.dim, dtype=torch.float64)
            row[part.start + channel * ir.dim] = 1.0
            rows.append(row)
    return torch.stack(rows)


def linear_matrix(
    function: Callable[[torch.Tensor], torch.Tensor], irreps_in: o3.Irreps, irreps_out: o3.Irreps
) -> torch.Tensor:
    """Matrix between channels, [channels of all irreps in, channels of all irreps out].

    Args:
        function: equivariant linear map of rows, float64.
        irreps_in: of its argument.
        irreps_out: of its result.
    """
    images = function(first_components(irreps_in))
    columns = first_components(irreps_out).argmax(1)
    return images[:, columns].detach()


def channel_slices(irreps: o3.Irreps) -> list[slice]:
    """Rows or columns of each irreps in a :func:`linear_matrix`."""
    slices, start = [], 0
    for channels, _ in irreps:
        slices.append(slice(start, start + channels))
        start += channels
    return slices


def couplings_of(paths: list[tuple[int, int, int, float]]) -> torch.Tensor:
    """Clebsch-Gordan entries of the paths of a convolution.

    Args:
        paths: (l1, l2, l3, factor) per path.

    Returns:
        [n, 5] float64 rows (path, m1, m2, m3, value).
    """
    rows = []
    for number, (l1, l2, l3, factor) in enumerate(paths):
        tensor = wigner_3j(l1, l2, l3) * factor
        for m1, m2, m3 in tensor.nonzero().tolist():
            rows.append((number, m1, m2, m3, tensor[m1, m2, m3].item()))
    return torch.tensor(rows, dtype=torch.float64).view(-1, 5)


def wigner_3j(l1: int, l2: int, l3: int) -> torch.Tensor:
    """e3nn's real 3j symbols in float64, with what is rounding noise set to zero."""
    tensor = o3.wigner_3j(l1, l2, l3, dtype=torch.float64)
    return torch.where(tensor.abs() < 1e-12, torch.zeros_like(tensor), tensor)


def plain_irreps(irreps: Iterable[tuple[int, o3.Irrep]]) -> Irreps:
    """(channels, l) of each irreps."""
    return [(channels, ir.l) for channels, ir in irreps]


def blocks_by_irrep(
    matrix: torch.Tensor, irreps_in: o3.Irreps, irreps_out: o3.Irreps
) -> dict[int, tuple[int, torch.Tensor]]:
    """(input, weight) of each output irreps that an input of the same kind feeds.

    Args:
        matrix: [..., channels of all irreps in, channels of all irreps out].
        irreps_in: every irrep once.
        irreps_out: of the result.
    """
    rows, columns = channel_slices(irreps_in), channel_slices(irreps_out)
    kinds = [ir for _, ir in irreps_in]
    return {
        output: (kinds.index(ir), matrix[..., rows[kinds.index(ir)], columns[output]])
        for output, (_, ir) in enumerate(irreps_out)
        if ir in kinds
    }


def matrices_by_row(product: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Linear maps that a bilinear product makes of its second arguments.

    Args:
        product: of features and scalars, float64.
        rows: [num_rows, scalars] second arguments, such as one-hot types.

    Returns:
        [num_rows, channels of all irreps in, channels of all irreps out].
    """
    irreps_in, irreps_out = o3.Irreps(product.irreps_in1), o3.Irreps(product.irreps_out)

    def with_row(row: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda features: product(features, row.expand(len(features), -1))

    return torch.stack([linear_matrix(with_row(row), irreps_in, irreps_out) for row in rows])
