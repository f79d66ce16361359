"""The univariate functions that a trained layer consists of, for tables, plots and the compiler."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kan_md.errors import user_error
from kan_md.kan.layer import KANLayer
from kan_md.kan.network import KAN


@dataclass(frozen=True, kw_only=True)
class PiecewisePolynomials:
    """φ_oi(x) = Σ_p coefficients[o, i, cell + 1, p] t^p, u = scale_i x + zero_i, t = u - cell.

    cell = floor(u), limited to [-1, cells]: the first and the last cell are the linear tails.

    Attributes:
        scale: [in_features], grid steps per unit of x (may be negative).
        zero: [in_features], grid position of x = 0.
        coefficients: [out_features, in_features, cells + 2, order + 1].
    """

    scale: torch.Tensor
    zero: torch.Tensor
    coefficients: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate every function; x is [num_points, in_features].

        Returns:
            [out_features, num_points, in_features].
        """
        cells = self.coefficients.shape[2] - 2
        u = x * self.scale + self.zero
        cell = torch.floor(u).clamp(-1.0, float(cells))
        t = u - cell
        number = torch.arange(x.shape[1], device=x.device)
        pieces = self.coefficients[:, number, cell.to(torch.int64) + 1]
        value = pieces[..., -1]
        for p in range(pieces.shape[-1] - 2, -1, -1):
            value = value * t + pieces[..., p]
        return value


def univariate_functions(
    layer: KANLayer | KAN, points: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Evaluate φ_oi and its slope at given inputs, base function, gain and tails included.

    Args:
        layer: a layer, or a network of one layer.
        points: [num_points], the same for every input, or [num_points, in_features].

    Returns:
        values and slopes dφ_oi/dx, [out_features, in_features, num_points] each.

    Raises:
        KanMdError: a network of several layers, which is no sum of univariate functions.
    """
    layer = _single_layer(layer)
    if points.dim() == 1:
        points = points.unsqueeze(-1).expand(-1, layer.in_features)
    with torch.enable_grad():
        x = points.detach().clone().requires_grad_()
        values = torch.stack(layer.univariate(x).unbind(-1))  # [out, num_points, in]
        # column i of the values depends on column i of x alone
        slopes = [torch.autograd.grad(v.sum(), x, retain_graph=True)[0] for v in values]
    return values.detach().transpose(1, 2), torch.stack(slopes).transpose(1, 2)


@torch.no_grad()
def piecewise_polynomials(layer: KANLayer | KAN) -> PiecewisePolynomials:
    """The spline part of a B-spline layer as polynomials per grid cell: exact, not a fit.

    The base function is not part of it: add ``silu(gain x) @ base_weight.T`` where there is one.

    Args:
        layer: a layer, or a network of one layer.

    Raises:
        KanMdError: another basis than ``bspline``, or a network of several layers.
    """
    layer = _single_layer(layer)
    if layer.basis != "bspline":
        raise user_error(
            "basis of a layer to write as exact polynomials",
            found=layer.basis,
            allowed="bspline",
            remedy="fit a table to univariate_functions(layer, points)",
        )
    coefficients = layer.coefficients / layer.norm
    pieces = torch.tensor(layer.pieces).to(coefficients)  # [order + 1, powers]
    windows = coefficients.unfold(-1, layer.order + 1, 1)  # [out, in, cells, order + 1]
    inner = windows @ pieces
    cell = layer.grid_zero.floor().clamp(0, layer.steps - 1)
    t = layer.grid_zero - cell
    number = torch.arange(layer.in_features, device=t.device)
    at_zero = inner[:, number, cell.long()]  # [out, in, powers]
    if layer.zero_preserving:
        powers = t.unsqueeze(-1) ** torch.arange(layer.order + 1, device=t.device)
        inner[..., 0] -= (at_zero * powers).sum(-1).unsqueeze(-1)
    power = torch.arange(layer.order + 1).to(coefficients)
    lower, upper = torch.zeros_like(inner[:, :, :1]), torch.zeros_like(inner[:, :, :1])
    lower[..., 1] = inner[:, :, :1, 1]
    lower[..., 0] = inner[:, :, :1, 0] - lower[..., 1]  # t = 1 at the lower end of the grid
    upper[..., 1] = (inner[:, :, -1:] * power).sum(-1)
    upper[..., 0] = inner[:, :, -1:].sum(-1)
    gain = 1.0 if layer.input_gain is None else layer.input_gain
    return PiecewisePolynomials(
        scale=gain / layer.grid_step,
        zero=layer.grid_zero.clone(),
        coefficients=torch.cat([lower, inner, upper], dim=2),
    )


def _single_layer(layer: KANLayer | KAN) -> KANLayer:
    if isinstance(layer, KANLayer):
        return layer
    if len(layer.layers) != 1:
        raise user_error(
            "layers of a KAN to write as univariate functions",
            found=len(layer.layers),
            allowed="1",
            remedy="take its layers one by one",
        )
    return layer.layers[0]
