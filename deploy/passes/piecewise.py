"""A sum of univariate functions as piecewise cubics on uniform grids, in plain torch."""

from __future__ import annotations

import torch

CHUNK_ROWS = 4096
"""Rows at a time: intermediates of [rows, inputs] stay in the cache."""


class PiecewiseCubic(torch.nn.Module):
    """y = Σ_i φ_i(x_i), φ_i a cubic on each cell of a uniform grid.

    Cells are counted from x = 0, so that small arguments keep their relative precision and φ_i(0)
    is a stored number. The first and the last cell go on to infinity. The derivative is taken in
    closed form beside the value, so that differentiation costs one product.

    Args:
        coefficients: [in, num_cells, 4], powers of the place inside a cell.
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
        self.first = float(-origin)
        self.last = float(num_cells - 1 - origin)
        powers = [coefficients[:, :, power].flatten().contiguous() for power in range(4)]
        self.register_buffer("c0", powers[0])
        self.register_buffer("c1", powers[1])
        self.register_buffer("c2", powers[2])
        self.register_buffer("c3", powers[3])
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
        cell = place.floor().clamp(self.first, self.last)
        u = place - cell
        at = (cell.to(torch.int32) + self.row).view(-1)
        c1 = torch.index_select(self.c1, 0, at).view_as(u)
        c2 = torch.index_select(self.c2, 0, at).view_as(u)
        c3 = torch.index_select(self.c3, 0, at).view_as(u)
        quadratic = torch.addcmul(c2, u, c3)  # c2 + c3 u
        tail = torch.addcmul(c1, u, quadratic)  # c1 + c2 u + c3 u²
        c0 = torch.index_select(self.c0, 0, at).view_as(u)
        value = torch.addcmul(c0, u, tail)
        # c1 + 2 c2 u + 3 c3 u² = tail + u (quadratic + c3 u)
        slope = torch.addcmul(tail, u, torch.addcmul(quadratic, u, c3)) * self.inverse_step
        return torch.addcmul(value, x, slope, value=-1.0).sum(1, keepdim=True), slope
