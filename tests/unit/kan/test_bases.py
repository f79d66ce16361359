"""Every basis against something that was not written here: scipy, or the formula in numpy."""

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from kan_md.errors import KanMdError
from kan_md.kan import BASES, KANLayer, bases

LOWER, UPPER = -1.5, 2.5
NUM_BASIS = 8


def make_layer(basis, *, order=3, num_basis=NUM_BASIS, zero_preserving=False, dtype=torch.float64):
    layer = KANLayer(
        1,
        1,
        basis=basis,
        order=order,
        num_basis=num_basis,
        grid_range=(LOWER, UPPER),
        base="none",
        zero_preserving=zero_preserving,
    )
    layer = layer.to(dtype)
    ends = torch.tensor([[LOWER], [UPPER]], dtype=torch.float64)
    layer.set_grid(*ends)  # once more, in the precision that the layer has by now
    return layer


def values_and_derivatives(layer, z):
    """B_m(z), B_m'(z), B_m''(z) by automatic differentiation, each [num_points, num_basis]."""
    z = torch.as_tensor(z, dtype=layer.grid_step.dtype).unsqueeze(-1).requires_grad_()
    values = layer.basis_functions(z, layer.grid_step, layer.grid_zero).squeeze(1)
    first, second = [], []
    for column in values.unbind(-1):
        (slope,) = torch.autograd.grad(column.sum(), z, create_graph=True)
        curvature = torch.zeros_like(slope)
        if slope.requires_grad:
            (curvature,) = torch.autograd.grad(slope.sum(), z, retain_graph=True)
        first.append(slope.squeeze(-1))
        second.append(curvature.squeeze(-1))
    return values.detach().numpy(), *(torch.stack(d, -1).detach().numpy() for d in (first, second))


def scipy_bspline(z, *, order, num_basis):
    step = (UPPER - LOWER) / (num_basis - order)
    knots = LOWER + step * np.arange(-order, num_basis + 1)
    spline = BSpline(knots, np.eye(num_basis), order)
    return spline(z), spline(z, 1), spline(z, 2)


def analytic_gaussian(z):
    centres = np.linspace(LOWER, UPPER, NUM_BASIS)
    width = centres[1] - centres[0]
    v = (z[:, None] - centres) / width
    value = np.exp(-(v**2))
    return value, -2 * v * value / width, (4 * v**2 - 2) * value / width**2


def analytic_fourier(z):
    k = 2 * np.pi / (UPPER - LOWER) * np.arange(1, NUM_BASIS // 2 + 1)
    sine, cosine = np.sin(z[:, None] * k), np.cos(z[:, None] * k)
    return (
        np.hstack([sine, cosine]),
        np.hstack([k * cosine, -k * sine]),
        np.hstack([-(k**2) * sine, -(k**2) * cosine]),
    )


INSIDE = np.linspace(LOWER, UPPER, 203)[1:-1]  # no knot among them


@pytest.mark.parametrize("num_basis", [6, 8, 13])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_bspline_and_its_derivatives_are_scipys(order, num_basis):
    layer = make_layer("bspline", order=order, num_basis=num_basis)
    expected = scipy_bspline(INSIDE, order=order, num_basis=num_basis)
    for found, reference in zip(values_and_derivatives(layer, INSIDE), expected, strict=True):
        np.testing.assert_allclose(found, reference, atol=1e-10, rtol=0)


def test_gaussian_and_its_derivatives_are_the_formula():
    found = values_and_derivatives(make_layer("gaussian"), INSIDE)
    for values, reference in zip(found, analytic_gaussian(INSIDE), strict=True):
        np.testing.assert_allclose(values, reference, atol=1e-10, rtol=0)


def test_fourier_and_its_derivatives_are_the_formula():
    found = values_and_derivatives(make_layer("fourier"), INSIDE)
    for values, reference in zip(found, analytic_fourier(INSIDE), strict=True):
        np.testing.assert_allclose(values, reference, atol=1e-10, rtol=0)


@pytest.mark.parametrize("basis", BASES)
def test_single_precision_agrees_with_double(basis):
    double = values_and_derivatives(make_layer(basis), INSIDE)
    single = values_and_derivatives(make_layer(basis, dtype=torch.float32), INSIDE)
    for found, reference in zip(single, double, strict=True):
        np.testing.assert_allclose(found, reference, atol=2e-5 * np.abs(reference).max(), rtol=0)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_only_the_nonzero_bsplines_are_evaluated(order):
    u = torch.linspace(0.0, 4.0, 41, dtype=torch.float64)
    pieces = bases.cardinal_pieces(order)
    values, first = bases.bspline_local(u, pieces, 4)
    assert values.shape == (41, order + 1)
    reference = BSpline(np.arange(-order, 5 + order), np.eye(4 + order), order)(u.numpy())
    dense = np.zeros_like(reference)
    np.put_along_axis(dense, first.numpy()[:, None] + np.arange(order + 1), values.numpy(), 1)
    factorial = float(np.prod(np.arange(1, order + 1)))
    np.testing.assert_allclose(dense / factorial, reference, atol=1e-14)


@pytest.mark.parametrize("zero_preserving", [True, False])
@pytest.mark.parametrize("basis", BASES)
def test_zero_preserving_form_is_the_plain_one_minus_its_value_at_zero(basis, zero_preserving):
    layer = make_layer(basis, zero_preserving=zero_preserving)
    plain = make_layer(basis)
    z = torch.linspace(-4, 4, 33, dtype=torch.float64).unsqueeze(-1)
    found = layer.basis_functions(z, layer.grid_step, layer.grid_zero)
    expected = plain.basis_functions(z, layer.grid_step, layer.grid_zero)
    if zero_preserving:
        expected = expected - plain.basis_functions(0.0 * z[:1], layer.grid_step, layer.grid_zero)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize("zero_preserving", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("basis", BASES)
def test_tails_are_the_tangents_at_the_grid_ends(basis, order, zero_preserving):
    layer = make_layer(basis, order=order, zero_preserving=zero_preserving)
    lower, upper = (end.item() for end in layer.grid_ends())
    nudge = 1e-9  # both sides of the end, and far outside
    for end, out in ((lower, -1.0), (upper, 1.0)):
        z = np.array([end - out * nudge, end + out * nudge, end + out * 3.0])
        values, slopes, _ = values_and_derivatives(layer, z)
        np.testing.assert_allclose(slopes[1], slopes[0], atol=1e-6 * np.abs(slopes).max())
        np.testing.assert_allclose(slopes[2], slopes[1], atol=1e-12 * np.abs(slopes).max())
        np.testing.assert_allclose(values[1], values[0], atol=1e-7)
        tangent = values[1] + slopes[1] * out * (3.0 - nudge)
        np.testing.assert_allclose(values[2], tangent, atol=1e-8)


@pytest.mark.parametrize("basis", BASES)
def test_slope_at_the_very_ends_is_that_just_inside(basis):
    layer = make_layer(basis, zero_preserving=True)
    ends = np.array([end.item() for end in layer.grid_ends()])
    _, at_ends, _ = values_and_derivatives(layer, ends)
    _, inside, _ = values_and_derivatives(layer, ends + np.array([1e-9, -1e-9]))
    np.testing.assert_allclose(at_ends, inside, atol=1e-6)


@pytest.mark.parametrize(
    ("basis", "num_basis", "order", "message"),
    [
        ("wavelet", 8, 3, "basis, got 'wavelet'; allowed: bspline, gaussian, fourier"),
        ("bspline", 8, 6, "B-spline order, got 6; allowed: 1 to 5"),
        ("bspline", 3, 3, "num_basis of the bspline basis, got 3; allowed: integers from 4"),
        ("gaussian", 1, 3, "num_basis of the gaussian basis, got 1; allowed: integers from 2"),
        ("fourier", 5, 3, "num_basis of the fourier basis, got 5; allowed: even numbers from 2"),
    ],
)
def test_impossible_bases_are_refused_in_one_line(basis, num_basis, order, message):
    with pytest.raises(KanMdError, match=message) as raised:
        bases.num_steps(basis, num_basis=num_basis, order=order)
    assert "\n" not in str(raised.value)
