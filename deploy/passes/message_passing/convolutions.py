"""A radial network and a tensor product with weights per edge, as one fused convolution."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product as product_of

import torch
from e3nn import o3

from kan_md.ops.chosen_types import ConvolutionOfChosen
from kan_md.ops.layout import ConvolutionSpec
from kan_md.ops.modules import Convolution
from kan_md.ops.tables import TableMaker, table_of
from kan_md_deploy.passes.message_passing.linear_maps import channel_slices, couplings_of
from kan_md_deploy.passes.tables.size import MOST_IN_FILE, check_table_size

TABLE_BOUND = {torch.float32: 1e-6, torch.float64: 1e-10}
"""Largest error of a table, relative to the function, that a file of this dtype can bear."""


_MARGIN = 4.0
"""By how much tables that are made when elements are chosen are better than the bound: a force is a
sum of many slopes."""


@dataclass(frozen=True)
class FusedConvolution:
    """A convolution and how its result relates to upstream's.

    Attributes:
        module: gives, for each (l, parity) of the tensor product's output, one irreps with the
            channels of all paths side by side.
        irreps: of the result, (channels, irrep).
        upstream_rows: for each irreps of the result, its channels among those of the tensor
            product's output.
        error: of the tables' slopes, relative to the largest.
    """

    module: Convolution | ConvolutionOfChosen
    irreps: list[tuple[int, o3.Irrep]]
    upstream_rows: list[torch.Tensor]
    error: float


def fuse_convolution(
    product: o3.TensorProduct,
    functions: torch.nn.Module,
    cutoffs: torch.Tensor,
    *,
    num_types: int,
    reversed_edges: bool,
    bound: float,
    dtype: torch.dtype,
    can_choose: bool,
) -> FusedConvolution:
    """Fuse Σ_j TP(H_j, Y(r̂_ij), R(r_ij)) of "uvu" paths.

    Args:
        product: upstream's tensor product; its second argument are the spherical harmonics.
        functions: R of a pair of types as :class:`TableMaker` has them, in the order of the
            product's weights.
        cutoffs: [num_types, num_types] float64, Å; [1, 1] where one function serves all pairs.
        num_types: number of atom types.
        reversed_edges: whether upstream's edge vectors point to the centre: Y_l(-r̂) = (-1)^l Y_l.
        bound: of the tables.
        dtype: of the model.
        can_choose: whether the file may make its tables when elements are chosen.
    """
    irreps_in, harmonics, irreps_out = product.irreps_in1, product.irreps_in2, product.irreps_out
    order = sorted(range(len(product.instructions)), key=lambda n: product.instructions[n].i_in1)
    weights, start = [], 0
    for instruction in product.instructions:
        channels = irreps_in[instruction.i_in1].mul
        weights.append(torch.arange(start, start + channels))
        start += channels

    kinds: list[o3.Irrep] = []
    rows: list[list[torch.Tensor]] = []
    upstream = channel_slices(irreps_out)
    paths, degrees, widths = [], [], []
    for number in order:
        instruction = product.instructions[number]
        irrep = irreps_out[instruction.i_out].ir
        if irrep not in kinds:
            kinds.append(irrep)
            rows.append([])
            widths.append(0)
        output = kinds.index(irrep)
        part = upstream[instruction.i_out]
        rows[output].append(torch.arange(part.start, part.stop))
        widths[output] += part.stop - part.start
        l1, l2 = irreps_in[instruction.i_in1].ir.l, harmonics[instruction.i_in2].ir.l
        sign = (-1.0) ** l2 if reversed_edges else 1.0
        paths.append((instruction.i_in1, l2, irrep.l, output))
        degrees.append((l1, l2, irrep.l, sign * instruction.path_weight))

    columns = torch.cat([weights[number] for number in order])
    is_chosen = can_choose and num_types**2 > MOST_IN_FILE
    # Tables of pairs that deploying does not try are not held against the whole model.
    own_bound = bound / _MARGIN if is_chosen and cutoffs.numel() > 1 else bound
    maker = TableMaker(_Selected(functions, columns), cutoffs, bound=own_bound)
    spec = ConvolutionSpec(tuple((mul, ir.l) for mul, ir in irreps_in), tuple(paths))
    couplings = couplings_of(degrees)
    if is_chosen:
        module = ConvolutionOfChosen(
            spec, maker, num_types=num_types, couplings=couplings, dtype=dtype
        )
        error = own_bound
    else:
        check_table_size(cutoffs.numel(), len(columns))
        table = table_of(maker, list(product_of(range(len(cutoffs)), repeat=2)))
        module = Convolution(spec, table, couplings=couplings, dtype=dtype)
        error = table.slope_error
    return FusedConvolution(
        module,
        list(zip(widths, kinds, strict=True)),
        [torch.cat(pieces) for pieces in rows],
        error,
    )


def can_fuse(product: torch.nn.Module, *, l_max: int = 4) -> bool:
    """Whether a tensor product is what :func:`fuse_convolution` takes."""
    return (
        isinstance(product, o3.TensorProduct)
        and all(mul == 1 for mul, _ in product.irreps_in2)
        and all(ir.l <= l_max for _, ir in product.irreps_in1 + product.irreps_in2)
        and all(i.connection_mode == "uvu" and i.has_weight for i in product.instructions)
    )


class _Selected(torch.nn.Module):
    """Some columns of functions of pairs."""

    def __init__(self, functions: torch.nn.Module, columns: torch.Tensor):
        super().__init__()
        self.functions = functions
        self.register_buffer("columns", columns)

    def forward(self, lengths: torch.Tensor, centre: int, neighbour: int) -> torch.Tensor:
        return self.functions(lengths, centre, neighbour)[:, self.columns]
