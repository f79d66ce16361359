"""The kernels of eager training are the definition, to any derivative that training takes."""

import pytest
import torch

from kan_md.kan import BASES, KANLayer
from kan_md.ops import function_sums

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


def make_layer(basis, *, dtype=torch.float64, **options):
    generator = torch.Generator().manual_seed(6)
    layer = KANLayer(5, 1, basis=basis, generator=generator, **options).to(dtype)
    if layer.input_gain is not None:
        with torch.no_grad():
            layer.input_gain.copy_(torch.linspace(0.7, -1.4, 5))
    return layer


def points(dtype, rows=40):
    x = 2.0 * torch.randn(rows, 5, generator=torch.Generator().manual_seed(2), dtype=dtype)
    x[0] = 0.0
    return x.requires_grad_()


def outputs_and_derivatives(function, x, parameters, *, create_graph=False):
    """y, dy/dx, and gradients of a loss of both: what training on forces computes."""
    y = function(x)
    (slope,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    loss = slope.square().sum() + y.square().sum()
    return y, slope, *torch.autograd.grad(loss, [x, *parameters], create_graph=create_graph)


def assert_kernels_are_the_definition(layer, dtype):
    x = points(dtype)
    found = outputs_and_derivatives(layer.by_tables, x, layer.parameters())
    expected = outputs_and_derivatives(layer.by_definition, x, layer.parameters())
    for value, reference in zip(found, expected, strict=True):
        atol = TOLERANCE[dtype] * reference.abs().max().item()
        torch.testing.assert_close(value, reference, atol=atol, rtol=0)
    assert not found[0][0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grid_range", [(-2.0, 2.0), (0.0, 3.0), (-3.0, 0.4)])
@pytest.mark.parametrize("basis", BASES)
def test_values_forces_and_training_gradients(basis, grid_range, dtype):
    assert_kernels_are_the_definition(make_layer(basis, grid_range=grid_range, dtype=dtype), dtype)


@pytest.mark.parametrize("basis", BASES)
def test_expansion_alone(basis):
    layer = make_layer(basis, base="none", input_gain="none")
    assert_kernels_are_the_definition(layer, torch.float64)


@pytest.mark.parametrize("order", [1, 2, 4, 5])
def test_every_spline_order(order):
    assert_kernels_are_the_definition(make_layer("bspline", order=order), torch.float64)


@pytest.mark.parametrize("basis", BASES)
def test_plain_form_that_keeps_its_value_at_zero(basis):
    layer = make_layer(basis, zero_preserving=False)
    x = points(torch.float64)
    torch.testing.assert_close(layer.by_tables(x), layer.by_definition(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("basis", BASES)
def test_third_derivatives(basis):
    layer = make_layer(basis)
    x = points(torch.float64, rows=4)
    variables = [x, *layer.parameters()]

    def third(function):
        _, _, *gradients = outputs_and_derivatives(
            function, x, layer.parameters(), create_graph=True
        )
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), variables)

    for value, reference in zip(third(layer.by_tables), third(layer.by_definition), strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", range(6))
def test_derivatives_of_the_base_function(order):
    z = torch.linspace(-6.0, 6.0, 25, dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.silu(z)
    for _ in range(order):
        (expected,) = torch.autograd.grad(expected.sum(), z, create_graph=True)
    found = function_sums._silu_derivative(z, order)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_several_chunks_are_one(monkeypatch):
    layer = make_layer("bspline")
    x = points(torch.float64, rows=23)
    whole = outputs_and_derivatives(layer.by_tables, x, layer.parameters())
    monkeypatch.setattr(function_sums, "_CHUNK_ELEMENTS", 20)
    chunked = outputs_and_derivatives(layer.by_tables, x, layer.parameters())
    for value, reference in zip(chunked, whole, strict=True):
        torch.testing.assert_close(value, reference, atol=1e-13, rtol=1e-13)


def test_forces_alone_compute_no_gradient_of_the_coefficients(monkeypatch):
    layer, x = make_layer("gaussian"), points(torch.float64)
    monkeypatch.setattr(function_sums, "_moments", lambda *_: pytest.fail("moments were computed"))
    torch.autograd.grad(layer(x).sum(), x)


@pytest.mark.parametrize("basis", BASES)
def test_functional_transforms_see_the_definition(basis):
    layer, x = make_layer(basis), points(torch.float64).detach()
    slope = torch.func.grad(lambda x: layer(x).sum())(x)
    x.requires_grad_()
    torch.testing.assert_close(slope, torch.autograd.grad(layer(x).sum(), x)[0])
    rows = torch.func.vmap(lambda row: layer(row))(x)
    torch.testing.assert_close(rows, layer(x))
