"""Radial and angular functions against closed forms and scipy."""

import numpy as np
import pytest
import torch
from scipy.special import eval_legendre, spherical_jn

from kan_md.backbones.etgnn.basis import angular_basis, envelope, radial_basis


def test_radial_functions_are_spherical_bessel_functions_of_order_zero():
    x = np.linspace(0.0, 1.0, 50)
    expected = np.stack([n * spherical_jn(0, n * np.pi * x) for n in range(1, 7)], axis=-1)
    found = radial_basis(torch.from_numpy(x), 6).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_angular_functions_are_legendre_polynomials():
    c = np.linspace(-1.0, 1.0, 41)
    expected = np.stack([eval_legendre(order, c) for order in range(7)], axis=-1)
    np.testing.assert_allclose(angular_basis(torch.from_numpy(c), 7).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_envelope_is_one_at_zero_and_vanishes_twice_differentiably(dtype):
    tolerance = 2e-4 if dtype == torch.float32 else 1e-12
    x = torch.tensor([0.0, 1.0, 1.3], dtype=dtype, requires_grad=True)
    value = envelope(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(value.detach(), torch.tensor([1.0, 0, 0], dtype=dtype))
    for derivative in (slope.detach(), curvature):
        assert derivative.abs().max() < tolerance
    # From inside, where the polynomial is: it falls with the third power of what is left.
    inside = torch.tensor([0.98, 0.99], dtype=torch.float64)
    ratio = envelope(inside)[0] / envelope(inside)[1]
    assert ratio == pytest.approx(8.0, rel=0.05)
