"""Fit the grids of KAN layers to the inputs that they see, keeping the functions they compute.

This is a step between two training steps, never part of a forward pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from kan_md.errors import user_error
from kan_md.kan.layer import KANLayer
from kan_md.kan.network import KAN

RANK_TOLERANCE = 1e-8
"""Singular values below this share of the largest one do not count in a refit."""

_POINTS_PER_FUNCTION = 12
_MOST_COMPARED = 257
"""Samples of each input at which a refitted function is held against the old one, the lowest and
the highest among them, at equal distances in their order."""

OUTLIER_DISTANCE = 4.0
"""Samples this many widths beyond the bulk of all are outliers; the bulk is 90 % of them."""

OUTLIER_SHARE = 0.01
"""At most this share of the samples at either end are outliers; what is more is a part of them."""

OUTSIDE_SHARE = 0.02
"""A grid follows its inputs when more than this share of the samples is beyond it."""

WIDEST = 1.8
"""A grid follows its inputs when it is more than so many times as wide as their range."""

MARGIN = 0.1
"""What a grid that follows has beyond the samples on either side, as a share of the range that
they and zero are in."""

_WEIGHT_OF_GRID = 1e-3
"""Of the points of the whole grid against the samples: they decide only what these leave open."""


@dataclass(frozen=True, kw_only=True)
class GridFit:
    """What became of one layer's grids.

    Attributes:
        lower: [in_features], lower ends now, in units of gain times input.
        upper: [in_features], upper ends now.
        moved: [in_features], which grids changed.
        rank: [in_features], rank of each refit, at most num_basis.
        change: largest |φ_after - φ_before| over the activations and functions, relative to the
            root mean square of the layer's functions there.
    """

    lower: torch.Tensor
    upper: torch.Tensor
    moved: torch.Tensor
    rank: torch.Tensor
    change: float


def blended_range(
    z: torch.Tensor, *, blend: float = 0.5, quantile: float = 0.01
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ends of a grid for each column of z: quantiles blended with the extremes, 0 included.

    lower = (1 - blend) quantile(z, q) + blend min(z), upper likewise, both of the samples without
    their outliers (:func:`without_outliers`). Knots stay equally spaced, which is what makes them
    cheap to find; the blend decides how much of the grid the rare samples get.

    Args:
        z: [num_samples, num_inputs].
        blend: 0 for the quantiles alone, 1 for the extremes alone.
        quantile: q, the share of the samples left out at either end when ``blend`` is 0.

    Raises:
        KanMdError: ``blend`` outside [0, 1], ``quantile`` outside [0, 0.5), no samples, or samples
            that are not finite.
    """
    _check_shares(blend, quantile)
    _check_samples(z)
    return _blend(_ordered_without_outliers(z.double()), blend=blend, quantile=quantile)


def _check_shares(blend: float, quantile: float) -> None:
    if not 0.0 <= blend <= 1.0:
        raise user_error("blend", found=blend, allowed="0 to 1", remedy="set blend")
    if not 0.0 <= quantile < 0.5:
        raise user_error("quantile", found=quantile, allowed="0 to 0.5", remedy="set quantile")


def _check_samples(z: torch.Tensor) -> None:
    if z.shape[0] == 0 or not bool(torch.isfinite(z).all()):
        found = "none" if z.shape[0] == 0 else "NaN or infinity"
        raise user_error(
            "activations to fit a grid to",
            found=found,
            allowed="finite numbers",
            remedy="check the structures of the batch and the learning rate",
        )


def _blend(
    ordered: torch.Tensor, *, blend: float, quantile: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`blended_range`, of columns in ascending order."""
    lower = (1.0 - blend) * _quantile(ordered, quantile) + blend * ordered[0]
    upper = (1.0 - blend) * _quantile(ordered, 1.0 - quantile) + blend * ordered[-1]
    return lower.clamp(max=0.0), upper.clamp(min=0.0)


def without_outliers(z: torch.Tensor) -> torch.Tensor:
    """Put the few samples that lie far from all others onto the outermost of these others.

    The bulk of a column reaches from its 5 % to its 95 % quantile (to its quartiles where there are
    few samples); an outlier is further than :data:`OUTLIER_DISTANCE` times that width away from it,
    and there are no more of them than :data:`OUTLIER_SHARE` of the samples, or one.

    Args:
        z: [num_samples, num_inputs], finite.

    Returns:
        Of the same shape.
    """
    lowest, highest = _outermost(z.sort(dim=0).values)
    return torch.minimum(torch.maximum(z, lowest), highest)


def _ordered_without_outliers(z: torch.Tensor) -> torch.Tensor:
    """Columns of :func:`without_outliers` in ascending order."""
    ordered = z.sort(dim=0).values
    lowest, highest = _outermost(ordered)
    return torch.minimum(torch.maximum(ordered, lowest), highest)


def _outermost(ordered: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The lowest and highest of each column, in ascending order, that are no outliers."""
    number = ordered.shape[0]
    if number < 5:
        return ordered[0], ordered[-1]
    share = min(0.25, max(0.05, 2.0 / number))
    low, high = _quantile(ordered, share), _quantile(ordered, 1.0 - share)
    margin = OUTLIER_DISTANCE * (high - low)
    most = max(1, int(OUTLIER_SHARE * number))
    fence_low = torch.minimum(low - margin, ordered[most])
    fence_high = torch.maximum(high + margin, ordered[-1 - most])
    inside = (ordered >= fence_low) & (ordered <= fence_high)
    lowest = torch.where(inside, ordered, math.inf).amin(dim=0)
    highest = torch.where(inside, ordered, -math.inf).amax(dim=0)
    return lowest, highest


@torch.no_grad()
def fit_layer(
    layer: KANLayer,
    x: torch.Tensor,
    *,
    blend: float = 0.5,
    quantile: float = 0.01,
    tolerance: float = 1e-6,
) -> GridFit:
    """Move the grids of a layer to the inputs x and refit the coefficients.

    For every input the grid of :func:`blended_range` is tried first, then, for zero-preserving
    B-splines, the grid whose step is the present one halved as often as still covers all samples,
    with the present knots among its own: there the old function can be written exactly. The first
    that changes no function by more than ``tolerance`` at any sample (at 257 of them where there
    are more) is taken; outliers have no say in any of this, see :func:`without_outliers`. If there
    is none (a grid that has to grow, or a Gaussian or Fourier expansion, is in general not
    representable on another grid) this input's grid stays. ``tolerance=math.inf`` takes the blended
    range with the least-squares refit, whatever it changes: for a start, when the functions are
    random.

    The refit solves on equally spaced points rather than on the samples, first over the new grid,
    then over the samples' range, by a singular value decomposition that leaves out what the
    points do not determine: repeated or few samples do no harm.

    Args:
        layer: changed in place: grid_step, grid_zero, coefficients.
        x: [num_samples, in_features], inputs of the layer.
        blend: see :func:`blended_range`.
        quantile: see :func:`blended_range`.
        tolerance: largest change, relative to the root mean square of the layer's functions.

    Raises:
        KanMdError: see :func:`blended_range`.
    """
    z = x.detach().reshape(-1, layer.in_features).double()
    if layer.input_gain is not None:
        z = z * layer.input_gain.double()
    _check_shares(blend, quantile)
    _check_samples(z)
    ordered = _ordered_without_outliers(z)
    lower, upper = _blend(ordered, blend=blend, quantile=quantile)
    # Each function has an input of its own, so that columns need not belong to one sample.
    z = ordered[torch.linspace(0, len(ordered) - 1, min(len(ordered), _MOST_COMPARED)).long()]
    step, zero = layer.grid_step.double(), layer.grid_zero.double()
    old = layer.coefficients.double()
    before = torch.einsum("nim,oim->noi", layer.basis_functions(z, step, zero), old)
    scale = before.square().mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)

    moved = torch.zeros(layer.in_features, dtype=torch.bool, device=z.device)
    rank = torch.full_like(moved, layer.num_basis, dtype=torch.int64)
    new_step, new_zero, new = step.clone(), zero.clone(), old.clone()
    change = torch.zeros_like(step)
    wide = upper - lower > 1e-3 * layer.steps * step  # not for inputs that are always about zero
    candidates = [_blended(layer, lower, upper, step, zero)]
    if layer.basis == "bspline" and layer.zero_preserving:
        ends = z.amin(dim=0).clamp(max=0.0), z.amax(dim=0).clamp(min=0.0)
        candidates.append(_nested(layer, *ends, step, zero))
    for candidate_step, candidate_zero in candidates:
        refitted, refit_rank = _refit(layer, z, candidate_step, candidate_zero)
        values = layer.basis_functions(z, candidate_step, candidate_zero)
        after = torch.einsum("nim,oim->noi", values, refitted)
        deviation = (after - before).abs().amax(dim=(0, 1)) / scale
        taken = wide & ~moved & (deviation <= tolerance)
        new_step = torch.where(taken, candidate_step, new_step)
        new_zero = torch.where(taken, candidate_zero, new_zero)
        new = torch.where(taken.unsqueeze(-1), refitted, new)
        rank = torch.where(taken, refit_rank, rank)
        change = torch.where(taken, deviation, change)
        moved |= taken
    layer.grid_step.copy_(new_step)
    layer.grid_zero.copy_(new_zero)
    layer.coefficients.copy_(new)
    low, high = layer.grid_ends()
    return GridFit(lower=low, upper=high, moved=moved, rank=rank, change=float(change.max()))


@torch.no_grad()
def move_grid(
    layer: KANLayer,
    grid_step: torch.Tensor,
    grid_zero: torch.Tensor,
    *,
    x: torch.Tensor | None = None,
) -> None:
    """Put a layer on given grids, with the coefficients that come nearest to its functions.

    For a second set of weights, such as a moving average, that has to follow the first.

    Args:
        layer: changed in place.
        grid_step: [in_features].
        grid_zero: [in_features].
        x: [num_samples, in_features], where functions are to be kept as :func:`follow_inputs`
            keeps them; on the whole of the new grids where ``None``.
    """
    step, zero = grid_step.double(), grid_zero.double()
    same = (grid_step == layer.grid_step) & (grid_zero == layer.grid_zero)
    if x is None:
        ends = torch.stack([-zero * step, (layer.steps - zero) * step])
        refitted, _ = _refit(layer, ends, step, zero)
    else:
        z = x.double() if layer.input_gain is None else x.double() * layer.input_gain.double()
        refitted = _refit_at_samples(layer, without_outliers(z), step, zero)[0]
    keep = same.unsqueeze(-1)
    layer.coefficients.copy_(torch.where(keep, layer.coefficients.double(), refitted))
    layer.grid_step.copy_(grid_step)
    layer.grid_zero.copy_(grid_zero)


@torch.no_grad()
def fit_grids(
    kan: KAN,
    x: torch.Tensor,
    *,
    blend: float = 0.5,
    quantile: float = 0.01,
    tolerance: float = 1e-6,
) -> list[GridFit]:
    """Fit the layers of a network one after the other, each to what the one before gives.

    Args:
        kan: changed in place.
        x: [num_samples, widths[0]], inputs of the network.
        blend: see :func:`blended_range`.
        quantile: see :func:`blended_range`.
        tolerance: see :func:`fit_layer`.

    Returns:
        One entry per layer.
    """
    fits = []
    for layer in kan.layers:
        fits.append(fit_layer(layer, x, blend=blend, quantile=quantile, tolerance=tolerance))
        x = layer(x)
    return fits


@torch.no_grad()
def follow_inputs(layer: KANLayer, x: torch.Tensor) -> GridFit:
    """Move those grids that the inputs have left, or have left empty, and keep the functions.

    Features move on while a model is trained. An input whose grid has more than
    :data:`OUTSIDE_SHARE` of the samples beyond it, where a function is a line, or is more than
    :data:`WIDEST` times as wide as their range, gets a grid of their range, with a margin to move
    in. Its coefficients are those that come nearest to the function at the samples in value and
    slope, since energies come of one and forces of the other; other grids stay bit for bit.
    Outliers have no say, see :func:`without_outliers`.

    Args:
        layer: changed in place: grid_step, grid_zero, coefficients.
        x: [num_samples, in_features], inputs of the layer.

    Raises:
        KanMdError: no samples, or samples that are not finite.
    """
    z = x.detach().reshape(-1, layer.in_features).double()
    if layer.input_gain is not None:
        z = z * layer.input_gain.double()
    lower, upper = blended_range(z, blend=1.0)
    z = without_outliers(z)
    margin = MARGIN * (upper - lower)
    low, high = (end.double() for end in layer.grid_ends())
    outside = ((z < low) | (z > high)).double().mean(dim=0)
    moved = (outside > OUTSIDE_SHARE) | (high - low > WIDEST * (upper - lower))
    moved &= upper - lower > 1e-9 * (high - low)
    # Without sides that no sample is on, where a margin would hold nothing.
    wanted_lower = torch.where(lower < 0.0, lower - margin, lower)
    wanted_upper = torch.where(upper > 0.0, upper + margin, upper)
    old_step, old_zero = layer.grid_step.double(), layer.grid_zero.double()
    step, zero = _blended(layer, wanted_lower, wanted_upper, old_step, old_zero)
    refitted, rank, change = _refit_at_samples(layer, z, step, zero)
    layer.coefficients.copy_(
        torch.where(moved.unsqueeze(-1), refitted, layer.coefficients.double())
    )
    layer.grid_step.copy_(torch.where(moved, step, old_step))
    layer.grid_zero.copy_(torch.where(moved, zero, old_zero))
    low, high = layer.grid_ends()
    change = float(torch.where(moved, change, 0.0).max())
    return GridFit(lower=low, upper=high, moved=moved, rank=rank, change=change)


Grid = tuple[torch.Tensor, torch.Tensor]  # step and zero, [in_features] each


def _blended(
    layer: KANLayer,
    lower: torch.Tensor,
    upper: torch.Tensor,
    step: torch.Tensor,
    zero: torch.Tensor,
) -> Grid:
    """The grid from ``lower`` to ``upper``; the present one where that range is empty."""
    empty = upper <= lower
    lower = torch.where(empty, -zero * step, lower)
    upper = torch.where(empty, (layer.steps - zero) * step, upper)
    return layer.snap(lower, upper)


def _nested(
    layer: KANLayer,
    lower: torch.Tensor,
    upper: torch.Tensor,
    step: torch.Tensor,
    zero: torch.Tensor,
) -> Grid:
    """The finest grid of step / 2^m that covers the range and has the old knots among its own.

    At least one halving makes every old knot, a multiple of half a step away from 0, a whole
    number of new steps away from it; then any whole number will do as position of 0.
    """
    nested_step, nested_zero = step, zero
    for m in range(1, 11):
        finer = step / 2.0**m
        start = torch.ceil(-lower / finer)
        covers = (layer.steps - start) * finer >= upper
        nested_step = torch.where(covers, finer, nested_step)
        nested_zero = torch.where(covers, start, nested_zero)
    return nested_step, nested_zero


def _refit(
    layer: KANLayer, z: torch.Tensor, step: torch.Tensor, zero: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients [out, in, num_basis] on a new grid that come nearest to the present functions.

    Also the rank [in] of the least-squares problem over the new grid.
    """
    present = layer.grid_step.double(), layer.grid_zero.double()
    old = layer.coefficients.double()
    share = torch.linspace(0.0, 1.0, _POINTS_PER_FUNCTION * layer.num_basis, dtype=torch.float64)
    share = share.to(z.device).unsqueeze(-1)
    new = torch.zeros_like(old)
    rank = torch.zeros(layer.in_features, dtype=torch.int64, device=z.device)
    largest = torch.zeros(layer.in_features, 1, dtype=z.dtype, device=z.device)
    grid_ends = (-zero * step, (layer.steps - zero) * step)
    for number, (low, high) in enumerate((grid_ends, (z.amin(0), z.amax(0)))):
        points = low + share * (high - low)
        target = torch.einsum("nim,oim->ino", layer.basis_functions(points, *present), old)
        design = layer.basis_functions(points, step, zero).transpose(0, 1)  # [in, points, basis]
        left, singular, right = torch.linalg.svd(design, full_matrices=False)
        if number == 0:
            largest = singular[:, :1]  # of the whole grid: a range of one point has no scale itself
        counts = singular > RANK_TOLERANCE * largest
        inverse = torch.where(counts, 1.0 / singular.clamp_min(math.ulp(0.0)), 0.0)
        residual = target - design @ new.permute(1, 2, 0)
        projected = left.transpose(1, 2) @ residual  # [in, basis, out]
        new = new + (right.transpose(1, 2) @ (inverse.unsqueeze(-1) * projected)).permute(2, 0, 1)
        rank = counts.sum(-1) if number == 0 else rank
    return new, rank


def _refit_at_samples(
    layer: KANLayer, z: torch.Tensor, step: torch.Tensor, zero: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Coefficients [out, in, num_basis] on a new grid by least squares over samples and slopes.

    Slopes count in units of the standard deviation of the samples. Also the rank [in] and the
    change [in], of :class:`GridFit`.
    """
    present = layer.grid_step.double(), layer.grid_zero.double()
    old = layer.coefficients.double()
    width = z.std(dim=0, correction=0).clamp_min(torch.finfo(z.dtype).tiny)
    difference = 1e-4 * width
    share = torch.linspace(0.0, 1.0, _POINTS_PER_FUNCTION * layer.num_basis, dtype=z.dtype)
    points = (share.to(z.device).unsqueeze(-1) * layer.steps - zero) * step

    def rows(grid: Grid) -> torch.Tensor:  # [in, samples + slopes + points, basis]
        values = layer.basis_functions(z, *grid)
        beyond = layer.basis_functions(z + difference, *grid)
        slopes = (beyond - layer.basis_functions(z - difference, *grid)) / 2e-4
        whole = layer.basis_functions(points, *grid) * _WEIGHT_OF_GRID
        scale = len(z) ** -0.5, len(z) ** -0.5, len(points) ** -0.5
        parts = [part * s for part, s in zip((values, slopes, whole), scale, strict=True)]
        return torch.cat(parts).transpose(0, 1)

    target = rows(present) @ old.permute(1, 2, 0)  # [in, rows, out]
    design = rows((step, zero))
    left, singular, right = torch.linalg.svd(design, full_matrices=False)
    counts = singular > RANK_TOLERANCE * singular[:, :1]
    inverse = torch.where(counts, 1.0 / singular.clamp_min(math.ulp(0.0)), 0.0)
    projected = left.transpose(1, 2) @ target
    new = (right.transpose(1, 2) @ (inverse.unsqueeze(-1) * projected)).permute(2, 0, 1)
    before = torch.einsum("nim,oim->noi", layer.basis_functions(z, *present), old)
    after = torch.einsum("nim,oim->noi", layer.basis_functions(z, step, zero), new)
    scale = before.square().mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    return new, counts.sum(-1), (after - before).abs().amax(dim=(0, 1)) / scale


def _quantile(ordered: torch.Tensor, share: float) -> torch.Tensor:
    """Linear interpolation between order statistics; torch.quantile is limited to 16M numbers."""
    position = share * (ordered.shape[0] - 1)
    below = math.floor(position)
    above = min(below + 1, ordered.shape[0] - 1)
    return torch.lerp(ordered[below], ordered[above], position - below)
