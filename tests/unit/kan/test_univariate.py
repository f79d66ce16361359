"""The functions inside a layer, taken out, add up to the layer."""

import pytest
import torch

from kan_md.errors import KanMdError
from kan_md.kan import BASES, KAN, KANLayer, piecewise_polynomials, univariate_functions


def random_layer(basis="bspline", dtype=torch.float64, **options):
    generator = torch.Generator().manual_seed(5)
    layer = KANLayer(3, 2, basis=basis, generator=generator, **options).to(dtype)
    with torch.no_grad():
        layer.input_gain.copy_(torch.tensor([0.8, -1.4, 0.3]))
    return layer


@pytest.mark.parametrize("basis", BASES)
def test_functions_add_up_to_the_layer(basis):
    layer = random_layer(basis)
    points = torch.linspace(-4, 4, 31, dtype=torch.float64)
    values, slopes = univariate_functions(layer, points)
    assert values.shape == slopes.shape == (2, 3, 31)
    x = points.unsqueeze(-1).repeat(1, 3).requires_grad_()
    y = layer(x)
    torch.testing.assert_close(values.sum(1).T, y, atol=1e-13, rtol=0)
    for o in range(2):
        (expected,) = torch.autograd.grad(y[:, o].sum(), x, retain_graph=True)
        torch.testing.assert_close(slopes[o].T, expected, atol=1e-13, rtol=0)


def test_functions_may_have_points_of_their_own():
    layer = random_layer()
    points = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    values, _ = univariate_functions(layer, points)
    torch.testing.assert_close(values.sum(1).T, layer(points), atol=1e-14, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("zero_preserving", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_polynomial_pieces_are_exact(order, zero_preserving, dtype):
    layer = random_layer(
        order=order,
        zero_preserving=zero_preserving,
        base="none",
        grid_range=(-1.2, 2.1),
        dtype=dtype,
    )
    x = 3.0 * torch.randn(200, 3, generator=torch.Generator().manual_seed(1), dtype=dtype)
    found = piecewise_polynomials(layer)(x).sum(-1).T
    tolerance = {torch.float32: 2e-5, torch.float64: 5e-14}[dtype]
    torch.testing.assert_close(found, layer(x), atol=tolerance, rtol=tolerance)


def test_pieces_and_base_add_up_to_a_layer_with_a_base():
    layer = random_layer()
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    base = torch.nn.functional.silu(x * layer.input_gain) @ layer.base_weight.T
    found = piecewise_polynomials(one_layer_network(layer))(x).sum(-1).T + base
    torch.testing.assert_close(found, layer(x), atol=1e-13, rtol=0)


def one_layer_network(layer):
    kan = KAN([3, 2], basis="bspline").double()
    kan.load_state_dict({f"layers.0.{k}": v for k, v in layer.state_dict().items()})
    return kan


def test_deep_networks_and_other_bases_are_refused():
    with pytest.raises(KanMdError, match=r"layers of a KAN .* got 2; allowed: 1"):
        univariate_functions(KAN([3, 2, 1]), torch.zeros(4))
    with pytest.raises(KanMdError, match="got gaussian; allowed: bspline"):
        piecewise_polynomials(KAN([3, 1]))
