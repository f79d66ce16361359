"""The penalties are what they claim and never give NaN, not even for functions that are zero."""

import math

import pytest
import torch

from kan_md.kan import KAN, regularization
from kan_md.kan.regularize import (
    curvature_penalty,
    entropy_penalty,
    function_sizes,
    l1_penalty,
)

DTYPES = [torch.float32, torch.float64]


def make_kan(dtype=torch.float64, base="silu"):
    return KAN([4, 3, 1], base=base, generator=torch.Generator().manual_seed(2)).to(dtype)


def test_l1_is_the_sum_of_sizes_and_scales_with_the_weights():
    kan = make_kan()
    expected = sum(
        layer.coefficients.abs().sum() / 8 + layer.base_weight.abs().sum() for layer in kan.layers
    )
    before = l1_penalty(kan)
    torch.testing.assert_close(before, expected)
    with torch.no_grad():
        for layer in kan.layers:
            layer.coefficients.mul_(-3.0)
            layer.base_weight.mul_(3.0)
    torch.testing.assert_close(l1_penalty(kan), 3.0 * before)


def test_entropy_is_largest_for_equal_functions_and_zero_for_a_single_one():
    kan = KAN([4, 3], base="none").double()
    layer = kan.layers[0]
    with torch.no_grad():
        layer.coefficients.fill_(0.7)
    assert entropy_penalty(kan).item() == pytest.approx(math.log(12))
    with torch.no_grad():
        layer.coefficients.zero_()
        layer.coefficients[1, 2] = -0.3
    assert entropy_penalty(kan).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("basis", ["gaussian", "bspline", "fourier"])
def test_curvature_is_that_of_the_functions_whatever_the_grids(basis):
    """Against second differences of the layers' own values, without gains and base functions."""
    kan = KAN([2, 3, 1], basis=basis, base="none", generator=torch.Generator().manual_seed(3))
    kan = kan.double()
    expected = 0.0
    for layer, width in zip(kan.layers, (0.3, 5.0), strict=True):
        ends = torch.full((layer.in_features,), width, dtype=torch.float64)
        layer.set_grid(-0.4 * ends, ends)
        low, high = (end[0].item() for end in layer.grid_ends())
        s = torch.linspace(0.0, 1.0, 4001, dtype=torch.float64)[1:-1].unsqueeze(1)
        places = (low + s * (high - low)).expand(-1, layer.in_features)
        values = layer.univariate(places)  # [points, in, out]
        step = layer.steps / 4000
        second = values.diff(dim=0).diff(dim=0) / step**2
        expected += (second**2).sum().item() * step
    assert curvature_penalty(kan).item() == pytest.approx(expected, rel=1e-2)


def test_curvature_alone_straightens_functions():
    """What an optimiser leaves of a function that no data speak of."""
    kan = KAN([1, 1], base="none", generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(kan.parameters(), lr=0.01)
    before = curvature_penalty(kan).item()
    for _ in range(500):
        optimizer.zero_grad()
        regularization(kan, torch.tensor(2.0), curvature=1e-6).backward()
        optimizer.step()
    assert curvature_penalty(kan).item() < 1e-2 * before


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zeros", ["one function", "one layer", "everything"])
def test_zero_functions_give_finite_values_and_gradients(zeros, dtype):
    kan = make_kan(dtype)
    with torch.no_grad():
        for number, layer in enumerate(kan.layers):
            if zeros == "everything" or (zeros == "one layer" and number == 0):
                layer.coefficients.zero_()
                layer.base_weight.zero_()
            if zeros == "one function":
                layer.coefficients[0, 0] = 0
                layer.base_weight[0, 0] = 0
    penalty = regularization(kan, torch.ones(()), l1=0.1, entropy=0.2, curvature=0.3)
    penalty.backward()
    assert torch.isfinite(penalty)
    for layer in kan.layers:
        assert torch.isfinite(layer.coefficients.grad).all()
        assert torch.isfinite(layer.base_weight.grad).all()


def test_penalty_gradients_are_right_away_from_zero():
    kan = KAN([4, 3], generator=torch.Generator().manual_seed(2)).double()
    names = [name for name, _ in kan.named_parameters()]

    def function(*values):
        replaced = {f"kan.{name}": v for name, v in zip(names, values, strict=True)}
        return torch.func.functional_call(Penalty(kan), replaced, ())

    assert torch.autograd.gradcheck(function, tuple(kan.parameters()))


class Penalty(torch.nn.Module):
    def __init__(self, kan):
        super().__init__()
        self.kan = kan

    def forward(self):
        return regularization(self.kan, torch.ones(()), l1=0.5, entropy=2.0)


def test_descending_the_penalty_concentrates_the_layer():
    kan = make_kan()
    optimizer = torch.optim.Adam(kan.parameters(), lr=0.01)
    before = entropy_penalty(kan).item()
    for _ in range(80):
        optimizer.zero_grad()
        regularization(kan, torch.ones(()), entropy=1.0).backward()
        optimizer.step()
    assert entropy_penalty(kan).item() < 0.7 * before
    assert torch.isfinite(function_sizes(kan.layers[0])).all()


def test_a_model_without_kan_layers_has_no_penalty():
    assert regularization(torch.nn.Linear(2, 2), torch.ones(()), l1=1.0, entropy=1.0).item() == 0.0
