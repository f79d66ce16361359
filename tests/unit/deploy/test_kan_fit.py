"""Pieces of a KAN layer's functions against the layer itself."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from kan_md.errors import KanMdError
from kan_md.kan import BASES
from kan_md.kan import fit_layer as fit_grid
from kan_md.kan.layer import KANLayer
from kan_md_deploy.passes.tables.kan_fit import fit_layer
from kan_md_deploy.passes.tables.piecewise_sum import PiecewiseSum

LAYERS = [("bspline", order) for order in range(1, 6)] + [("gaussian", 3), ("fourier", 3)]


def layer_of(basis, order, base):
    layer = KANLayer(5, 1, basis=basis, order=order, base=base).double()
    layer.input_gain.data = torch.tensor([1.0, -0.4, 2.5, 0.7, 0.0], dtype=torch.float64)
    return layer


def pieces_of(fit):
    return PiecewiseSum(fit.coefficients, fit.inverse_step, origin=fit.origin)


@pytest.mark.parametrize(("basis", "order"), LAYERS)
@pytest.mark.parametrize("base", ["silu", "none"])
def test_value_and_slope_are_the_layers_to_the_bound(basis, order, base):
    layer = layer_of(basis, order, base)
    fit = fit_layer(layer, bound=1e-6)
    x = 3 * torch.randn(400, 5, dtype=torch.float64)
    results = []
    for function in (layer, pieces_of(fit)):
        point = x.clone().requires_grad_(True)
        y = function(point)
        results.append((y.detach(), *torch.autograd.grad(y.sum(), point)))
    (exact, exact_slope), (found, slope) = results
    functions = layer.univariate(x).squeeze(2)
    span = (functions.amax(0) - functions.amin(0)).max()
    assert (found - exact).abs().max() <= 5 * 1e-6 * span
    assert (slope - exact_slope).abs().max() <= 1e-6 * 2.5 * exact_slope.abs().max()


@pytest.mark.parametrize("basis", BASES)
def test_grids_that_were_fitted_to_their_inputs_can_be_tabulated(basis):
    """Their ends lie anywhere, and the curvature jumps there."""
    layer = layer_of(basis, 3, "silu")
    x = torch.randn(500, 5, dtype=torch.float64) * torch.tensor([0.3, 1.0, 0.1, 3.0, 1.0])
    moved = fit_grid(layer, x + torch.tensor([0.4, -0.7, 0.0, 2.0, 0.0]), tolerance=math.inf).moved
    assert moved[:4].all()
    fit = fit_layer(layer, bound=1e-6)
    torch.testing.assert_close(pieces_of(fit)(x), layer(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("order", range(1, 6))
def test_splines_are_exact(order):
    layer = layer_of("bspline", order, "none")
    fit = fit_layer(layer, bound=1e-6)
    x = 3 * torch.randn(400, 5, dtype=torch.float64)
    torch.testing.assert_close(pieces_of(fit)(x), layer(x), rtol=0, atol=1e-10)


def test_layers_that_keep_their_value_at_zero_and_lopsided_grids():
    """x = 0 is on no knot there: spline pieces end inside those of the table."""
    layer = KANLayer(
        5, 1, basis="bspline", zero_preserving=False, base="none", grid_range=(-1.2, 2.1)
    ).double()
    x = 3 * torch.randn(400, 5, dtype=torch.float64)
    found = pieces_of(fit_layer(layer, bound=1e-4))(x)
    spread = layer.univariate(x).squeeze(2)
    span = (spread.amax(0) - spread.amin(0)).max().item()
    torch.testing.assert_close(found, layer(x), rtol=0, atol=5e-4 * span)


@pytest.mark.parametrize(("basis", "order"), LAYERS)
def test_zero_stays_exactly_zero(basis, order):
    fit = fit_layer(layer_of(basis, order, "silu"), bound=1e-6)
    for dtype in (torch.float32, torch.float64):
        pieces = pieces_of(fit).to(dtype)
        assert torch.equal(pieces(torch.zeros(2, 5, dtype=dtype)), torch.zeros(2, 1, dtype=dtype))


def test_pieces_meet_with_value_and_slope():
    coefficients = fit_layer(layer_of("gaussian", 3, "silu"), bound=1e-6).coefficients
    at_end = coefficients[:, :-1].sum(2)
    slope_at_end = (coefficients[:, :-1, 1:] * torch.arange(1, 6)).sum(2)
    torch.testing.assert_close(at_end, coefficients[:, 1:, 0], rtol=0, atol=1e-10)
    torch.testing.assert_close(slope_at_end, coefficients[:, 1:, 1], rtol=0, atol=1e-9)


def test_a_bound_out_of_reach_says_so():
    layer = layer_of("gaussian", 3, "silu")
    with pytest.raises(KanMdError, match=r"512 cells per grid step; allowed: 1.0e-16; deploy with"):
        fit_layer(layer, bound=1e-16)


def test_idle_inputs_give_their_value_at_zero():
    layer = KANLayer(2, 1, basis="gaussian", zero_preserving=False).double()
    layer.input_gain.data = torch.tensor([0.0, 1.0], dtype=torch.float64)
    pieces = pieces_of(fit_layer(layer, bound=1e-6))
    for a, b in itertools.product((-3.0, 0.0, 40.0), (-0.1, 0.3)):
        x = torch.tensor([[a, b]], dtype=torch.float64)
        torch.testing.assert_close(pieces(x), layer(x), rtol=0, atol=1e-5)


def with_wide_tails(fit):
    """What the module says of such pieces: x to Σ_i φ_i(x_i), and the pieces that were met."""
    last = fit.coefficients.size(1) - 1 - fit.origin
    low, high = fit.num_tail + 1 - fit.origin, last - fit.num_tail

    def function(x):
        s = x * fit.inverse_step
        inside = s.clamp(low, high)
        w = inside + (s - inside) * fit.tail_ratio
        piece = w.floor().clamp(-fit.origin, last)
        c = fit.coefficients[torch.arange(x.size(1)), (piece + fit.origin).long()]
        powers = (w - piece).unsqueeze(2) ** torch.arange(6)
        return (c * powers).sum((1, 2)), piece + fit.origin

    return function


@pytest.mark.parametrize(("basis", "order"), LAYERS)
def test_wide_tails_are_the_layer_from_its_grid_to_the_lines(basis, order):
    layer = layer_of(basis, order, "silu")
    layer.grid_step *= torch.tensor([0.003, 0.02, 0.1, 0.7, 1.0])
    fit = fit_layer(layer, bound=1e-6, tails="wide")
    assert fit.coefficients.size(1) < 0.1 * 40 / layer.grid_step.min()
    function = with_wide_tails(fit)
    x = torch.randn(4000, 5, dtype=torch.float64) * torch.logspace(-3, 1.5, 4000).unsqueeze(1)
    point = x.clone().requires_grad_(True)
    found, pieces = function(point)
    assert set(range(fit.coefficients.size(1))) == set(pieces.flatten().int().tolist())
    (slope,) = torch.autograd.grad(found.sum(), point)
    exact = layer(x.requires_grad_(True)).squeeze(1)
    (exact_slope,) = torch.autograd.grad(exact.sum(), x)
    functions = layer.univariate(x).squeeze(2).detach()
    span = (functions.amax(0) - functions.amin(0)).max()
    assert (found - exact).detach().abs().max() <= 5 * 1e-6 * span
    assert (slope - exact_slope).abs().max() <= 1e-6 * exact_slope.abs().max()
    assert function(torch.zeros(1, 5, dtype=torch.float64))[0].item() == 0.0
