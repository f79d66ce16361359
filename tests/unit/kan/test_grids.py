"""Fitting a grid: the blend is what it says, the function stays, bad samples do no harm."""

import math

import numpy as np
import pytest
import torch

from kan_md.errors import KanMdError
from kan_md.kan import BASES, KAN, KANLayer, fit_grids, fit_layer
from kan_md.kan.grids import MARGIN, blended_range, follow_inputs, move_grid

DTYPES = [torch.float32, torch.float64]


def seeded(number=0):
    return torch.Generator().manual_seed(number)


def make_layer(basis="bspline", dtype=torch.float64, **options):
    layer = KANLayer(3, 2, basis=basis, generator=seeded(4), **options).to(dtype)
    with torch.no_grad():
        layer.input_gain.copy_(torch.tensor([1.0, -0.8, 1.3]))
    return layer


def normal(rows, scale, dtype=torch.float64):
    return torch.randn(rows, 3, dtype=dtype, generator=seeded(9)) * torch.tensor(scale).to(dtype)


@pytest.mark.parametrize("quantile", [0.0, 0.01, 0.2])
def test_blend_goes_from_the_quantiles_to_the_extremes(quantile):
    z = normal(501, [1.0, 2.0, 0.5])
    ends = {blend: blended_range(z, blend=blend, quantile=quantile) for blend in (0.0, 0.3, 1.0)}
    for end, share in ((0, quantile), (1, 1.0 - quantile)):
        quantiles = np.quantile(z.numpy(), share, axis=0)
        extremes = z.numpy().min(0) if end == 0 else z.numpy().max(0)
        np.testing.assert_allclose(ends[0.0][end], quantiles, rtol=1e-13)
        np.testing.assert_allclose(ends[1.0][end], extremes, rtol=1e-13)
        np.testing.assert_allclose(ends[0.3][end], 0.7 * quantiles + 0.3 * extremes, rtol=1e-13)


def test_range_contains_zero():
    z = normal(100, [1.0, 1.0, 1.0]).abs() + 1.0
    lower, upper = blended_range(z)
    assert not lower.any()
    assert (upper > 1.0).all()
    lower, upper = blended_range(-z)
    assert not upper.any()


@pytest.mark.parametrize("basis", BASES)
def test_the_grid_goes_where_the_activations_are(basis):
    layer = make_layer(basis)
    x = normal(2000, [0.2, 3.0, 1.0])
    lower, upper = blended_range(x * layer.input_gain, blend=0.4)
    fit = fit_layer(layer, x, blend=0.4, tolerance=math.inf)
    assert fit.moved.all()
    # zero sits on half steps, which moves the range by up to a quarter of a step
    slack = 0.26 * layer.grid_step
    assert ((fit.lower - lower).abs() <= slack).all()
    assert ((fit.upper - upper).abs() <= slack).all()
    assert not layer(torch.zeros(2, 3, dtype=torch.float64)).any()


@pytest.mark.parametrize("rows", [7, 60, 2000])
@pytest.mark.parametrize("basis", BASES)
def test_one_outlier_does_not_stretch_the_grid(basis, rows):
    x = normal(rows, [0.2, 3.0, 1.0])
    far = torch.cat([x, torch.tensor([[1e4, -1e4, 1e9]], dtype=torch.float64)])
    layers = [make_layer(basis), make_layer(basis)]
    fits = [
        fit_layer(layer, x, tolerance=math.inf) for layer, x in zip(layers, (x, far), strict=True)
    ]
    width = fits[0].upper - fits[0].lower
    assert ((fits[1].lower - fits[0].lower).abs() <= 0.3 * width).all()
    assert ((fits[1].upper - fits[0].upper).abs() <= 0.3 * width).all()
    for layer in layers:
        assert not layer(torch.zeros(1, 3, dtype=torch.float64)).any()
        # and it goes on across the ends of its grid and out to the outlier without a step
        ends = torch.stack(layer.grid_ends()) / layer.input_gain
        step = 1e-7 * (ends[1] - ends[0]).abs()
        jump = layer(ends + step) - layer(ends - step)
        assert jump.abs().max() < 1e-4 * layer(x).abs().max().clamp(min=1.0)
        assert torch.isfinite(layer(far)).all()


def test_a_part_of_the_samples_is_no_outlier():
    most = normal(960, [1e-3, 1e-3, 1e-3])
    some = 5.0 + normal(40, [0.1, 0.1, 0.1])
    assert (blended_range(torch.cat([most, some]), blend=1.0)[1] > 5.0).all()
    assert (blended_range(torch.cat([most, some[:5]]), blend=1.0)[1] < 0.1).all()


def test_outliers_leave_the_function_of_the_others_alone():
    layer = make_layer()
    x = normal(700, [0.2, 0.1, 0.02])
    before = layer(x)
    far = torch.tensor([[300.0, -500.0, 1e4]], dtype=torch.float64)
    assert fit_layer(layer, torch.cat([x, far])).moved.all()
    assert (layer(x) - before).abs().max() <= 1e-6 * before.square().mean().sqrt()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_shrinking_a_spline_grid_keeps_the_function(order, dtype):
    layer = make_layer(order=order, num_basis=order + 8, dtype=dtype)
    x = normal(1000, [0.2, 0.1, 0.02], dtype=dtype)
    before = layer(x)
    width = (layer.grid_ends()[1] - layer.grid_ends()[0]).clone()
    fit = fit_layer(layer, x)
    assert fit.moved.all()
    assert fit.change <= 1e-6
    assert ((fit.upper - fit.lower) < 0.6 * width).all()
    rms = before.square().mean().sqrt()
    assert (layer(x) - before).abs().max() <= (1e-6 if dtype == torch.float64 else 4e-6) * rms


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [[0.05, 0.6, 3.0], [30.0, 1.0, 0.3], [1e-7, 1e3, 1.0]])
@pytest.mark.parametrize("basis", BASES)
def test_the_function_is_kept_whatever_the_activations(basis, scale, dtype):
    layer = make_layer(basis, dtype)
    x = normal(700, scale, dtype)
    before = layer(x)
    fit_layer(layer, x)
    rms = before.square().mean().sqrt()
    assert (layer(x) - before).abs().max() <= (3e-6 if dtype == torch.float64 else 1e-5) * rms


def test_a_function_that_any_grid_can_hold_moves_onto_any_grid():
    layer = make_layer(base="none")
    x = normal(1000, [4.0, 4.0, 4.0])
    with torch.no_grad():  # linear precision of B-splines: coefficients at the Greville points
        greville = torch.arange(8, dtype=torch.float64) - 1.0
        layer.coefficients.copy_(greville.expand(2, 3, 8) * torch.tensor([[[1.0]], [[-0.4]]]))
    before = layer(x)
    fit = fit_layer(layer, x, blend=1.0)
    assert fit.moved.all()
    assert ((fit.upper - fit.lower) > 15.0).all()
    torch.testing.assert_close(layer(x), before, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("tolerance", [1e-6, math.inf])
@pytest.mark.parametrize("kind", ["one value", "two values", "one sample", "zeros", "tiny"])
@pytest.mark.parametrize("basis", BASES)
def test_repeated_and_few_samples_give_no_nan(basis, kind, tolerance):
    x = {
        "one value": torch.full((50, 3), 0.7),
        "two values": torch.tensor([-0.3, 0.9]).repeat(30).unsqueeze(-1).expand(60, 3),
        "one sample": torch.tensor([[0.5, -1.0, 2.0]]),
        "zeros": torch.zeros(20, 3),
        "tiny": torch.full((50, 3), 1e-30),
    }[kind].double()
    layer = make_layer(basis)
    before = layer(x)
    fit = fit_layer(layer, x, tolerance=tolerance)
    for tensor in (*layer.state_dict().values(), fit.lower, fit.upper):
        assert torch.isfinite(tensor).all()
    assert layer.coefficients.abs().max() < 100
    if tolerance < 1:
        torch.testing.assert_close(layer(x), before, atol=1e-6, rtol=1e-6)
    if kind in ("zeros", "tiny"):
        assert not fit.moved.any()


def test_rank_of_the_refit_is_that_of_the_zero_preserving_basis():
    # B-splines add up to 1, so without their values at zero one of them is redundant
    for zero_preserving, rank in ((True, 7), (False, 8)):
        layer = make_layer(zero_preserving=zero_preserving)
        fit = fit_layer(layer, normal(500, [0.3, 0.3, 0.3]), tolerance=math.inf)
        assert fit.rank.tolist() == [rank] * 3


@pytest.mark.parametrize("basis", BASES)
def test_moving_to_the_present_grid_changes_nothing(basis):
    layer = make_layer(basis, torch.float32)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    move_grid(layer, layer.grid_step.clone(), layer.grid_zero.clone())
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_network_is_fitted_layer_by_layer():
    kan = KAN([3, 4, 1], basis="bspline", generator=seeded()).double()
    x = normal(800, [0.3, 0.2, 0.25])
    before = kan(x)
    fits = fit_grids(kan, x)
    assert len(fits) == 2
    assert fits[0].moved.all()
    torch.testing.assert_close(kan(x), before, atol=2e-6, rtol=2e-6)


def strayed(rows=500):
    """Samples beyond the first input's grid, in a corner of the second's, over the third's."""
    x = normal(rows, [0.3, 0.05, 1.0])
    return torch.cat([x[:, :1] + 4.0, x[:, 1:2], x[:, 2:].clamp(-1.5, 1.5)], dim=1)


@pytest.mark.parametrize("basis", BASES)
def test_a_grid_follows_its_inputs_and_keeps_value_and_slope(basis):
    layer = make_layer(basis)
    x = strayed().requires_grad_()
    before = layer(x)
    (slope_before,) = torch.autograd.grad(before.sum(), x)
    third = layer.grid_step[2].clone(), layer.coefficients[:, 2].clone()
    fit = follow_inputs(layer, x)
    after = layer(x)
    (slope_after,) = torch.autograd.grad(after.sum(), x)
    assert fit.moved.tolist() == [True, True, False]
    rms = before.square().mean().sqrt()
    assert (after - before).abs().max() < 0.02 * rms
    # a part of a period is no periodic function: sines and cosines come less near
    error, size = (slope_after - slope_before).square().mean(), slope_before.square().mean()
    assert error.sqrt() < (0.2 if basis == "fourier" else 0.02) * size.sqrt()
    z = (x * layer.input_gain).detach()
    width = z.amax(0).clamp(min=0.0) - z.amin(0).clamp(max=0.0)
    slack = MARGIN * width + 0.26 * layer.grid_step
    assert ((fit.lower <= z.amin(0)) & (fit.upper >= z.amax(0)))[fit.moved].all()
    assert (fit.upper - z.amax(0).clamp(min=0.0) <= slack)[fit.moved].all()
    assert torch.equal(third[0], layer.grid_step[2])
    assert torch.equal(third[1], layer.coefficients[:, 2])
    assert not layer(torch.zeros(2, 3, dtype=torch.float64)).any()
    assert not follow_inputs(layer, x).moved.any()


def test_a_second_set_of_weights_follows_by_the_same_samples():
    first, second = make_layer("gaussian"), make_layer("gaussian")
    with torch.no_grad():
        second.coefficients.mul_(-0.7)
    x = strayed()
    before = second(x)
    follow_inputs(first, x)
    move_grid(second, first.grid_step, first.grid_zero, x=x)
    assert (second(x) - before).abs().max() < 0.02 * before.square().mean().sqrt()


@pytest.mark.parametrize("value", [0.0, 1e-30, 0.7, 1e6])
@pytest.mark.parametrize("basis", BASES)
def test_inputs_that_are_all_alike_move_no_grid_onto_nothing(basis, value):
    layer = make_layer(basis)
    x = torch.full((50, 3), value, dtype=torch.float64)
    before = layer(x)
    follow_inputs(layer, x)
    assert all(torch.isfinite(tensor).all() for tensor in layer.state_dict().values())
    torch.testing.assert_close(layer(x), before, atol=1e-6, rtol=1e-6)


def test_global_random_numbers_and_gradients_are_untouched():
    layer = make_layer()
    state = torch.random.get_rng_state()
    fit_layer(layer, normal(100, [0.2, 0.2, 0.2]))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert layer.coefficients.grad is None
    assert layer.coefficients.requires_grad


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        ([[math.nan, 0.0, 0.0]], {}, "activations to fit a grid to, got NaN or infinity"),
        ([], {}, "activations to fit a grid to, got none"),
        ([[0.0, 1.0, 2.0]], {"blend": 1.5}, "blend, got 1.5; allowed: 0 to 1"),
        ([[0.0, 1.0, 2.0]], {"quantile": 0.5}, "quantile, got 0.5; allowed: 0 to 0.5"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(x, options, message):
    layer = make_layer()
    before = layer.grid_step.clone(), layer.coefficients.clone()
    with pytest.raises(KanMdError, match=message):
        fit_layer(layer, torch.tensor(x, dtype=torch.float64).reshape(-1, 3), **options)
    assert torch.equal(layer.grid_step, before[0])
    assert torch.equal(layer.coefficients, before[1])
