"""Sums of univariate functions as piecewise polynomials on uniform grids.

In plain torch, and on the project's operators: the plain form writes a dozen intermediates of the
size of its input to memory; ``kan_md::piecewise_sum`` reads the input once and writes value and
slope, or the value alone where nobody differentiates, and ``kan_md::piecewise_values`` finds a cell
once for all outputs.
"""

from __future__ import annotations

import torch

from kan_md.ops import load
from kan_md.ops.layout import pack_outputs, pack_pieces
from kan_md_deploy.passes.tables.kan_fit import Fit

CHUNK_ROWS = 4096
"""Rows at a time: intermediates of [rows, inputs] stay in the cache."""


class PiecewiseSum(torch.nn.Module):
    """y = Σ_i φ_i(x_i), φ_i a polynomial of degree five on each cell of a uniform grid.

    Cells are counted from x = 0, so that small arguments keep their relative precision and φ_i(0)
    is a stored number. The first and the last cell go on to infinity. The derivative is taken in
    closed form beside the value, so that differentiation costs one product.

    Args:
        coefficients: [in, num_cells, 6], powers of the place inside a cell.
        inverse_step: [in], one over the width of a cell, with sign.
        origin: number of the cell whose left end is x = 0.
        chunk_rows: rows to evaluate at a time; 0: all, for compilers that fuse the operations.
    """

    def __init__(
        self,
        coefficients: torch.Tensor,
        inverse_step: torch.Tensor,
        *,
        origin: int,
        chunk_rows: int = CHUNK_ROWS,
    ):
        super().__init__()
        num_inputs, num_cells, _ = coefficients.shape
        self.chunk_rows = chunk_rows
        self.origin = origin
        self.num_cells = num_cells
        self.register_buffer("powers", coefficients.flatten(0, 1).t().contiguous())
        self.register_buffer("inverse_step", inverse_step.clone())
        rows = torch.arange(num_inputs, dtype=torch.int32) * num_cells + origin
        self.register_buffer("row", rows)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate [rows, 1] for x [rows, in]."""
        with torch.no_grad():  # TorchScript loses detach() when it freezes; it keeps this
            rest, slope = self.tangent(x)
        return rest + (x * slope).sum(1, keepdim=True)

    def tangent(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tangents at x: Σ_i (φ_i - x_i φ_i') [rows, 1] and φ_i' [rows, in]."""
        if self.chunk_rows == 0 or x.size(0) <= 2 * self.chunk_rows:
            return self._evaluate(x)
        rests: list[torch.Tensor] = []
        slopes: list[torch.Tensor] = []
        for start in range(0, x.size(0), self.chunk_rows):
            rest, slope = self._evaluate(x[start : start + self.chunk_rows])
            rests.append(rest)
            slopes.append(slope)
        return torch.cat(rests), torch.cat(slopes)

    def _evaluate(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        place = x * self.inverse_step
        cell = place.floor().clamp(float(-self.origin), float(self.num_cells - 1 - self.origin))
        u = place - cell
        at = (cell.to(torch.int32) + self.row).view(-1)
        # Horner's scheme for the value and, a step behind, for the slope.
        slope = torch.index_select(self.powers[5], 0, at).view_as(u)
        value = torch.addcmul(torch.index_select(self.powers[4], 0, at).view_as(u), slope, u)
        for power in (3, 2, 1, 0):
            slope = torch.addcmul(value, slope, u)
            coefficient = torch.index_select(self.powers[power], 0, at).view_as(u)
            value = torch.addcmul(coefficient, value, u)
        slope = slope * self.inverse_step
        return torch.addcmul(value, x, slope, value=-1.0).sum(1, keepdim=True), slope


class FusedPiecewiseSum(torch.nn.Module):
    """The function of a :class:`PiecewiseSum` by ``kan_md::piecewise_sum``.

    Args:
        coefficients: [in, num_cells, 6], powers of the place inside a cell.
        inverse_step: [in], one over the width of a cell, with sign.
        origin: number of the cell whose left end is x = 0.
        slopes: whether its result will be differentiated.
    """

    def __init__(
        self,
        coefficients: torch.Tensor,
        inverse_step: torch.Tensor,
        *,
        origin: int,
        slopes: bool,
    ):
        super().__init__()
        load()
        self.slopes = slopes
        self.origin = origin
        self.register_buffer("pieces", pack_pieces(coefficients))
        self.register_buffer("inverse_step", inverse_step.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate [rows, 1] for x [rows, in]."""
        value, _ = torch.ops.kan_md.piecewise_sum(
            x, self.pieces, self.inverse_step, self.origin, self.slopes
        )
        return value


class FusedPiecewiseOutputs(torch.nn.Module):
    """Several outputs of a KAN layer by ``kan_md::piecewise_values``; not to be differentiated.

    Args:
        fits: of every output, on one grid.
        dtype: of the model.
    """

    def __init__(self, fits: list[Fit], *, dtype: torch.dtype):
        super().__init__()
        load()
        self.out_features = len(fits)
        self.origin = fits[0].origin
        pieces = pack_outputs([fit.coefficients for fit in fits])
        self.register_buffer("pieces", pieces.to(dtype))
        self.register_buffer("inverse_step", fits[0].inverse_step.to(dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate [rows, out] for x [rows, in]."""
        value = torch.ops.kan_md.piecewise_values(x, self.pieces, self.inverse_step, self.origin)
        return value[:, : self.out_features]
