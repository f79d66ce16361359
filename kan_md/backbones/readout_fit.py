"""Give a KAN readout the function of another one, as far as a sum of univariate functions can."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from kan_md.errors import user_error
from kan_md.kan.grids import fit_grids
from kan_md.kan.network import KAN

RIDGES = tuple(10.0**power for power in range(-14, -3, 2))
"""Weights of the coefficients' squares to choose from, relative to the normal matrix's norm."""


@dataclass(frozen=True)
class ReadoutFit:
    """How well the KAN took over the function.

    Attributes:
        num_samples: rows that were fitted.
        rms: root mean square of the fitted rows' errors, in the units of the targets.
        rms_held_out: the same for the held-out rows.
        spread: standard deviation of the targets: the error of a constant.
    """

    num_samples: int
    rms: float
    rms_held_out: float
    spread: float

    @property
    def r_squared(self) -> float:
        """Share of the held-out variance that the KAN explains."""
        return 1.0 - (self.rms_held_out / self.spread) ** 2 if self.spread > 0.0 else 1.0


def clear_readout(kan: KAN) -> None:
    """Make the KAN the zero function, by setting the weights of its last layer to zero.

    Raises:
        KanMdError: it is one of combinations or of each type.
    """
    _check_plain(kan)
    with torch.no_grad():
        last = kan.layers[-1]
        last.coefficients.zero_()
        if last.base_weight is not None:
            last.base_weight.zero_()


def _check_plain(kan: torch.nn.Module) -> None:
    if not isinstance(kan, KAN):
        raise user_error(
            "only a KAN of every scalar and all types can be fitted by least squares",
            found=type(kan).__name__,
            allowed="a readout without projection and per_type",
            remedy="leave readout.projection and readout.per_type out",
        )


def check_fittable(kan: torch.nn.Module) -> None:
    """Refuse a readout that is not linear in its weights.

    Raises:
        KanMdError: the KAN has hidden layers, or is one of combinations or of each type.
    """
    _check_plain(kan)
    if len(kan.layers) != 1:
        raise user_error(
            "a KAN readout with hidden layers cannot be fitted by least squares",
            found=f"widths {kan.widths}",
            allowed="hidden: []",
            remedy="leave readout.hidden empty",
        )


@torch.no_grad()
def fit_readout(
    kan: KAN, features: torch.Tensor, targets: torch.Tensor, *, generator: torch.Generator
) -> ReadoutFit:
    """Fit a one-layer KAN to targets by linear least squares; grids are placed first.

    y = Σ_i [w_i silu(g_i x_i) + Σ_m c_im B_m(g_i x_i)] is linear in w and c. A fifth of the rows
    is held out to judge by; a tenth chooses the weight of a ridge, for silu is nearly a sum of the
    basis functions and features may be few or alike.

    Args:
        kan: widths [in_features, 1]; changed in place.
        features: [num_rows, in_features].
        targets: [num_rows, 1]; zero where the features are zero.
        generator: decides which rows are held out.

    Raises:
        KanMdError: the KAN has hidden layers, so that the problem is not linear, or is one of
            combinations or of each type.
    """
    check_fittable(kan)
    (layer,) = kan.layers
    order = torch.randperm(len(features), generator=generator)
    tenth = len(order) // 10
    held_out, choosing, fitted = order.split([2 * tenth, tenth, len(order) - 3 * tenth])
    fit_grids(kan, features[fitted], tolerance=math.inf)
    design = _design_matrix(kan, features)  # [num_rows, in_features * (num_basis + 1)]
    values, vectors = torch.linalg.eigh(design[fitted].T @ design[fitted])
    projected = vectors.T @ (design[fitted].T @ targets[fitted].double())
    candidates = [
        vectors @ (projected / (values.clamp_min(0.0) + ridge * values[-1]).unsqueeze(-1))
        for ridge in RIDGES
    ]
    judged = choosing if tenth else fitted
    errors = [(design[judged] @ w - targets[judged]).square().sum() for w in candidates]
    weights = candidates[int(torch.stack(errors).argmin())]
    count = layer.in_features * layer.num_basis
    layer.coefficients.copy_(weights[:count, 0].view_as(layer.coefficients))
    if layer.base_weight is not None:
        layer.base_weight.copy_(weights[count:, 0].view_as(layer.base_weight))
    errors = (kan(features) - targets).double()
    return ReadoutFit(
        num_samples=len(fitted),
        rms=float(errors[fitted].square().mean().sqrt()),
        rms_held_out=float(errors[held_out].square().mean().sqrt()),
        spread=float(targets.double().std()),
    )


def _design_matrix(kan: KAN, features: torch.Tensor) -> torch.Tensor:
    """What multiplies the coefficients, then what multiplies the base weights."""
    (layer,) = kan.layers
    z = features.double()
    if layer.input_gain is not None:
        z = z * layer.input_gain.double()
    values = layer.basis_functions(z, layer.grid_step.double(), layer.grid_zero.double())
    columns = [values.flatten(1)]
    if layer.base_weight is not None:
        columns.append(torch.nn.functional.silu(z))
    return torch.cat(columns, dim=1)
