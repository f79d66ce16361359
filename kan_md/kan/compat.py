"""Layers of FastKAN and of efficient-kan, number for number, to load and compare their weights.

They have what a potential must not have (an output at x = 0, LayerNorm, an expansion that ends at
the edge of its grid), so nothing else in this package uses them. Parameter names are the
originals', so that ``load_state_dict`` takes their weights.

FastKAN: Z. Li, *Kolmogorov-Arnold Networks are Radial Basis Function Networks*, arXiv:2405.06721.
efficient-kan: H. Cao, a reformulation of KAN (Z. Liu et al., arXiv:2404.19756).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch

from kan_md.errors import user_error

Layer = TypeVar("Layer", bound=torch.nn.Module)


class FastKANLayer(torch.nn.Module):
    """y = W vec(exp(-((LN(x) - c_m)/h)²)) + V silu(x) + b, c_m equally spaced, h their spacing.

    Args:
        input_dim: number of inputs.
        output_dim: number of outputs.
        grid_min: first centre.
        grid_max: last centre.
        num_grids: number of centres.
        use_layernorm: normalise x (affine, eps 1e-5) before the Gaussians.
        use_base_update: have V and b.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *,
        grid_min: float = -2.0,
        grid_max: float = 2.0,
        num_grids: int = 8,
        use_layernorm: bool = True,
        use_base_update: bool = True,
    ) -> None:
        super().__init__()
        self.layernorm = torch.nn.LayerNorm(input_dim) if use_layernorm else None
        self.rbf = _Centres(grid_min, grid_max, num_grids)
        self.spline_linear = torch.nn.Linear(input_dim * num_grids, output_dim, bias=False)
        self.base_linear = torch.nn.Linear(input_dim, output_dim) if use_base_update else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer; x [..., input_dim], result [..., output_dim]."""
        layernorm = self.layernorm
        z = x if layernorm is None else layernorm(x)
        y = self.spline_linear(self.rbf(z).flatten(-2))
        base_linear = self.base_linear
        if base_linear is not None:
            y = y + base_linear(torch.nn.functional.silu(x))
        return y


class _Centres(torch.nn.Module):
    def __init__(self, grid_min: float, grid_max: float, num_grids: int) -> None:
        super().__init__()
        # a frozen parameter, as the original keeps it
        grid = torch.linspace(grid_min, grid_max, num_grids)
        self.grid = torch.nn.Parameter(grid, requires_grad=False)
        self.width = (grid_max - grid_min) / (num_grids - 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(-torch.square((x.unsqueeze(-1) - self.grid) / self.width))


class EfficientKANLinear(torch.nn.Module):
    """y_o = Σ_i w_oi silu(x_i) + s_oi Σ_m c_oim B_m(x_i), B_m by the Cox-de Boor recursion.

    The knots of every input are a buffer and need not be uniform. Beyond the last knots the
    expansion is exactly 0.

    Args:
        in_features: number of inputs.
        out_features: number of outputs.
        grid_size: cells between the ends of the grid range.
        spline_order: degree k.
        grid_range: ends of the grid; k more knots follow on either side.
        enable_standalone_scale_spline: have s_oi.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        enable_standalone_scale_spline: bool = True,
    ) -> None:
        super().__init__()
        step = (grid_range[1] - grid_range[0]) / grid_size
        knots = torch.arange(-spline_order, grid_size + spline_order + 1) * step + grid_range[0]
        self.spline_order = spline_order
        self.register_buffer("grid", knots.expand(in_features, -1).contiguous())
        self.base_weight = torch.nn.Parameter(torch.zeros(out_features, in_features))
        self.spline_weight = torch.nn.Parameter(
            torch.zeros(out_features, in_features, grid_size + spline_order)
        )
        if enable_standalone_scale_spline:
            self.spline_scaler = torch.nn.Parameter(torch.ones(out_features, in_features))
        else:
            self.register_parameter("spline_scaler", None)

    def b_splines(self, x: torch.Tensor) -> torch.Tensor:
        """All B-splines; x [num_points, in_features], result [..., grid_size + spline_order]."""
        x = x.unsqueeze(-1)
        knots = self.grid
        values = ((x >= knots[:, :-1]) & (x < knots[:, 1:])).to(x.dtype)
        for k in range(1, self.spline_order + 1):
            rising = (x - knots[:, : -(k + 1)]) / (knots[:, k:-1] - knots[:, : -(k + 1)])
            falling = (knots[:, k + 1 :] - x) / (knots[:, k + 1 :] - knots[:, 1:-k])
            values = rising * values[..., :-1] + falling * values[..., 1:]
        return values

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer; x [..., in_features], result [..., out_features]."""
        leading = x.shape[:-1]
        x = x.reshape(-1, x.shape[-1])
        weight = self.spline_weight
        scaler = self.spline_scaler
        if scaler is not None:
            weight = weight * scaler.unsqueeze(-1)
        y = torch.nn.functional.silu(x) @ self.base_weight.t()
        y = y + self.b_splines(x).flatten(1) @ weight.flatten(1).t()
        return y.reshape(leading + y.shape[-1:])


def load_fastkan_layer(state_dict: Mapping[str, torch.Tensor]) -> FastKANLayer:
    """Build a FastKAN layer of the size that the weights have, in their dtype.

    Args:
        state_dict: ``state_dict()`` of one FastKANLayer of the original.

    Raises:
        KanMdError: the entries are not those of a FastKAN layer.
    """
    _require(state_dict, {"rbf.grid", "spline_linear.weight"}, "a FastKAN layer")
    grid, weight = state_dict["rbf.grid"], state_dict["spline_linear.weight"]
    layer = FastKANLayer(
        weight.shape[1] // len(grid),
        weight.shape[0],
        grid_min=float(grid[0]),
        grid_max=float(grid[-1]),
        num_grids=len(grid),
        use_layernorm="layernorm.weight" in state_dict,
        use_base_update="base_linear.weight" in state_dict,
    )
    return _load(layer.to(weight.dtype), state_dict, "a FastKAN layer")


def load_efficient_kan_layer(
    state_dict: Mapping[str, torch.Tensor], *, spline_order: int = 3
) -> EfficientKANLinear:
    """Build an efficient-kan layer of the size that the weights have, in their dtype.

    Args:
        state_dict: ``state_dict()`` of one KANLinear of the original.
        spline_order: degree of the splines, which the weights do not tell.

    Raises:
        KanMdError: the entries are not those of an efficient-kan layer of that order.
    """
    _require(state_dict, {"base_weight", "spline_weight", "grid"}, "an efficient-kan layer")
    weight = state_dict["spline_weight"]
    layer = EfficientKANLinear(
        weight.shape[1],
        weight.shape[0],
        grid_size=weight.shape[2] - spline_order,
        spline_order=spline_order,
        enable_standalone_scale_spline="spline_scaler" in state_dict,
    )
    return _load(layer.to(weight.dtype), state_dict, "an efficient-kan layer")


def _require(state_dict: Mapping[str, torch.Tensor], names: set[str], what: str) -> None:
    missing = sorted(names - state_dict.keys())
    if missing:
        raise user_error(
            f"weights of {what}",
            found=f"{', '.join(sorted(state_dict)) or 'nothing'}",
            allowed=f"at least {', '.join(sorted(names))}",
            remedy="pass the state_dict of one layer",
        )


def _load(layer: Layer, state_dict: Mapping[str, torch.Tensor], what: str) -> Layer:
    try:
        layer.load_state_dict(state_dict)
    except RuntimeError as error:
        raise user_error(
            f"weights of {what}",
            found=" ".join(str(error).split()),
            allowed=None,
            remedy="pass the state_dict of one layer and its spline order",
        ) from error
    return layer
