"""Sums over environments: by definition, by each other, by operators, with any order of edges."""

import pytest
import torch

from kan_md.errors import KanMdError
from kan_md.forms.activation import TwiceSiLU
from kan_md.forms.environment_sums import Environments, environment, projection
from kan_md.ops import function_sums, load

SLICES = [slice(0, 1), slice(1, 4), slice(4, 9)]
DEGREE = torch.tensor([0, 1, 1, 1, 2, 2, 2, 2, 2])
CHANNELS = 5


@pytest.fixture(params=["torch", "operators"])
def kernels(request):
    """Both ways to compute."""
    chosen = None
    if request.param == "operators":
        try:
            load()
        except KanMdError as error:
            pytest.skip(f"needs the operators: {error}")
        chosen = torch.ops.kan_md
    before = function_sums.use_operators(chosen)
    yield request.param
    function_sums.use_operators(before)


def numbers(dtype=torch.float64, num_edges=17):
    """Weights, harmonics, a field and centres in no order, of which some have no edges."""
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(num_edges, len(SLICES) * CHANNELS, generator=generator, dtype=dtype)
    harmonics = torch.randn(num_edges, 9, generator=generator, dtype=dtype)
    field = torch.randn(6, 9, CHANNELS, generator=generator, dtype=dtype)
    centre = torch.tensor([0, 2, 3, 5])[torch.randint(4, (num_edges,), generator=generator)]
    return weights, harmonics, field, centre


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("num_edges", [17, 0])
def test_sums_are_those_of_the_definition(kernels, dtype, num_edges):
    weights, harmonics, field, centre = numbers(dtype, num_edges)
    environments = Environments(centre, 6, SLICES)
    per_component = weights.view(-1, 3, CHANNELS)[:, DEGREE]
    around = torch.zeros(6, 9, CHANNELS, dtype=dtype)
    around.index_add_(0, centre, per_component * harmonics.unsqueeze(2))
    torch.testing.assert_close(environment(weights, harmonics, environments), around)
    terms = harmonics.unsqueeze(2) * field[centre]
    projected = torch.zeros(num_edges, 3, CHANNELS, dtype=dtype).index_add_(1, DEGREE, terms)
    torch.testing.assert_close(projection(harmonics, field, environments), projected.flatten(1))


def test_derivatives_are_those_of_finite_differences_twice(kernels):
    weights, harmonics, field, centre = numbers(num_edges=7)
    variables = [tensor.requires_grad_() for tensor in (weights, harmonics, field)]
    environments = Environments(centre, 6, SLICES)

    def function(weights, harmonics, field):
        around = environment(weights, harmonics, environments)
        return (projection(harmonics, field * around, environments) * weights).sum(1)

    assert torch.autograd.gradcheck(function, variables)
    assert torch.autograd.gradgradcheck(function, variables)


def test_activation_has_three_derivatives():
    z = torch.linspace(-6, 6, 13, dtype=torch.float64, requires_grad=True)
    found, expected = TwiceSiLU()(z), torch.nn.functional.silu(z)
    for _ in range(4):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        found, expected = (
            torch.autograd.grad(y.sum(), z, create_graph=True)[0] for y in (found, expected)
        )
    assert torch.autograd.gradgradcheck(TwiceSiLU(), z)
