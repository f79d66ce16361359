"""Weights and numbers in the order in which an operator of a whole model reads them.

The operators ``kan_md::allegro`` and ``kan_md::local_mace`` take a list of tensors and a list of
integers (kan_md/ops/plan_reader.h). Widths of channels are padded to whole blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from nequip.data import AtomicDataDict

from kan_md.kan import bases
from kan_md.kan.layer import KANLayer
from kan_md.ops import load
from kan_md.ops.interval_tables import (
    IntervalTable,
    TableOfOwnRanges,
    locate_cells,
    table_of,
)
from kan_md.ops.layout import block_of, pack_pieces
from kan_md.ops.tables import FunctionsInList
from kan_md_deploy.passes.tables.kan_fit import WIDEST_TAIL, fit_layer, silu_tail
from kan_md_deploy.passes.tables.non_smooth_distances import find_non_smooth_distances
from kan_md_deploy.passes.tables.size import check_table_size

_BASES = ("bspline", "gaussian", "fourier")  # enum Basis in kan_rows.h
_MARGIN = 16.0
"""By how much tables are better than the bound: a force is a sum of many slopes, and a few more
intervals are cheap."""

Columns = Callable[[torch.Tensor, int], torch.Tensor]
"""Lengths [n] float64, Å, and number of the pair of types -> [n, num_functions] float64."""


class OperatorWeights:
    """What an operator reads, as it is put together.

    Args:
        dtype: of the model.
        bound: of every table, relative to a function's range.

    Attributes:
        weights: tensors so far.
        transposed: places of those that are the transpose of the one before.
        shape: numbers so far.
        error: largest error of a table's values so far, relative to the function's range.
        slope_error: the same of slopes.
    """

    def __init__(self, dtype: torch.dtype, *, bound: float):
        self.dtype = dtype
        self.bound = bound
        self.weights: list[torch.Tensor] = []
        self.transposed: set[int] = set()
        self.shape: list[int] = []
        self.error = self.slope_error = 0.0

    @property
    def table_bound(self) -> float:
        """What tables of distances are held to."""
        return self.bound / _MARGIN

    def padded(self, width: int) -> int:
        """A width as the operator has it."""
        block = block_of(self.dtype)
        return -(-width // block) * block

    def pad(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """In the model's dtype, with zeros up to a whole number of blocks along one dimension."""
        sizes = list(tensor.shape)
        sizes[dim] = self.padded(sizes[dim]) - sizes[dim]
        zeros = tensor.new_zeros(sizes, dtype=self.dtype)
        return torch.cat([tensor.detach().to(self.dtype), zeros], dim)

    def add_table(self, table: IntervalTable, widths: Sequence[int]) -> None:
        """Rows, ends and cells of a table; columns are padded in groups of ``widths``."""
        pieces = [self.pad(piece, 3) for piece in torch.split(table.powers, list(widths), 3)]
        self.weights += [torch.cat(pieces, 3), table.ends, locate_cells(table.ends)]

    def add_product(self, matrix: torch.Tensor) -> None:
        """A matrix [in, out], and its transpose for the reverse pass."""
        padded = self.pad(self.pad(matrix, 0), 1)
        self.weights += [padded, padded.t()]
        self.transposed.add(len(self.weights) - 1)

    def add_pieces(self, layer: KANLayer) -> None:
        """Piecewise polynomials of a KAN layer with one output."""
        wide = silu_tail(layer, bound=self.bound) > WIDEST_TAIL
        fit = fit_layer(layer, bound=self.bound, tails="wide" if wide else "uniform")
        self.error = max(self.error, fit.error)
        self.slope_error = max(self.slope_error, fit.slope_error)
        self.shape.append(fit.origin)
        self.weights.append(self.pad(pack_pieces(fit.coefficients), 0))
        if fit.num_tail:
            self.shape.append(fit.num_tail)
            self.weights.append(self.pad(torch.stack([fit.inverse_step, fit.tail_ratio]), 1))
        else:
            self.weights.append(self.pad(fit.inverse_step, 0))

    def add_kan_layer(self, layer: KANLayer) -> None:
        """A KAN layer as the matrix behind its basis functions."""
        layer = copy.deepcopy(layer).double()
        has_silu = layer.base_weight is not None
        self.shape += [_BASES.index(layer.basis), layer.num_basis, layer.order, layer.steps]
        self.shape.append(int(has_silu))
        gain = torch.ones_like(layer.grid_step) if layer.input_gain is None else layer.input_gain
        grid = torch.stack([gain / layer.grid_step, layer.grid_zero, layer.grid_step])
        self.weights.append(self.pad(grid, 1))
        layer.zero_preserving = False
        at_zero = layer.expand(torch.zeros_like(grid[:1]), layer.grid_zero)[0]
        self.weights.append(self.pad(at_zero.squeeze(0).t(), 1))
        if layer.basis == "bspline":
            pieces = torch.tensor(bases.cardinal_pieces(layer.order), dtype=self.dtype)
            self.weights.append(pieces)
        rows = (layer.coefficients.detach() / layer.norm).permute(2, 1, 0)  # [num_basis, in, out]
        if has_silu:
            rows = torch.cat([rows, layer.base_weight.detach().t().unsqueeze(0)])
        self.add_product(self.pad(rows, 1).flatten(0, 1))

    def tabulate(self, columns: Columns, cutoffs: Sequence[float]) -> IntervalTable:
        """A table of functions of the distance, each held to its own range.

        Args:
            columns: the functions; zero with two derivatives at the cutoff.
            cutoffs: Å, one per pair of types.

        Raises:
            BoundNotReachedError: the bound needs too many intervals.
        """
        with torch.no_grad():
            middle = torch.tensor([0.5 * cutoffs[0]], dtype=torch.float64)
            check_table_size(len(cutoffs), columns(middle, 0).size(1))
        functions = [partial(columns, pair=pair) for pair in range(len(cutoffs))]
        row = torch.tensor([list(cutoffs)], dtype=torch.float64)
        maker = TableOfOwnRanges(FunctionsInList(functions), row, bound=self.table_bound)
        kinks = [find_non_smooth_distances(f, c) for f, c in zip(functions, cutoffs, strict=True)]
        table = table_of(maker, [(0, pair) for pair in range(len(cutoffs))], kinks)
        self.error = max(self.error, table.error)
        self.slope_error = max(self.slope_error, table.slope_error)
        return table


class Constant(torch.nn.Module):
    """A tensor in a list of tensors that TorchScript can read."""

    def __init__(self, value: torch.Tensor):
        super().__init__()
        self.register_buffer("value", value)

    def forward(self) -> torch.Tensor:
        """Give it."""
        return self.value


class ModelOnOperator(torch.nn.Module):
    """An operator with its constants; a subclass names the operator in ``forward``.

    Args:
        operator: weights and numbers.
    """

    def __init__(self, operator: OperatorWeights):
        super().__init__()
        load()
        self.weights = torch.nn.ModuleList(Constant(w.contiguous()) for w in operator.weights)
        self.shape: list[int] = operator.shape
        self._vectors = AtomicDataDict.EDGE_VECTORS_KEY
        self._index = AtomicDataDict.EDGE_INDEX_KEY
        self._types = AtomicDataDict.ATOM_TYPE_KEY
        self._energy = AtomicDataDict.PER_ATOM_ENERGY_KEY

    def constants(self) -> list[torch.Tensor]:
        """The weights as the operator takes them."""
        weights: list[torch.Tensor] = []
        for weight in self.weights:
            weights.append(weight())
        return weights
