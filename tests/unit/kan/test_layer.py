"""What a potential needs of a KAN: f(0) = 0, smoothness, unit variance, no global state."""

import pytest
import torch

from kan_md.errors import KanMdError
from kan_md.kan import BASES, KAN, KANLayer

DTYPES = [torch.float32, torch.float64]


def seeded(number=0):
    return torch.Generator().manual_seed(number)


def random_kan(basis, dtype, widths=(5, 4, 2), **options):
    """A KAN whose gains differ from each other and from 1."""
    kan = KAN(widths, basis=basis, generator=seeded(), **options).to(dtype)
    with torch.no_grad():
        for layer in kan.layers:
            layer.input_gain.copy_(torch.linspace(-1.3, 1.7, layer.in_features))
    return kan


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grid_range", [(-2.0, 2.0), (-1.0, 0.3), (0.0, 3.0), (-0.7, 2.9)])
@pytest.mark.parametrize("basis", BASES)
def test_zero_gives_zero_bit_for_bit(basis, grid_range, dtype):
    orders = [1, 2, 3, 4, 5] if basis == "bspline" else [3]
    for order in orders:
        for num_basis in (6, 8, 14):
            kan = random_kan(basis, dtype, grid_range=grid_range, order=order, num_basis=num_basis)
            for rows in (1, 7, 33):
                assert not kan(torch.zeros(rows, 5, dtype=dtype)).any()


@pytest.mark.parametrize("basis", BASES)
def test_zero_gives_zero_after_a_change_of_dtype(basis):
    kan = random_kan(basis, torch.float32, grid_range=(-0.7, 2.9))
    assert not kan.double()(torch.zeros(3, 5, dtype=torch.float64)).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("basis", BASES)
def test_a_zero_input_adds_nothing_to_the_others(basis, dtype):
    kan = random_kan(basis, dtype, widths=(5, 2))
    x = torch.randn(11, 5, dtype=dtype, generator=seeded())
    x[:, 2] = 0
    smaller = random_kan(basis, dtype, widths=(4, 2))
    keep = [0, 1, 3, 4]
    with torch.no_grad():
        for name, tensor in smaller.layers[0].state_dict().items():
            source = kan.layers[0].state_dict()[name]
            tensor.copy_(source[keep] if source.dim() == 1 else source[:, keep])
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
    torch.testing.assert_close(kan(x), smaller(x[:, keep]), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("zero_preserving", [True, False])
@pytest.mark.parametrize("basis", BASES)
def test_first_and_second_derivatives_are_right_inside_and_outside_the_grid(basis, zero_preserving):
    kan = random_kan(basis, torch.float64, widths=(3, 2), zero_preserving=zero_preserving)
    x = 2.0 * torch.randn(6, 3, dtype=torch.float64, generator=seeded())
    x[0] = 0.0
    x.requires_grad_()
    parameters = tuple(kan.parameters())

    def function(x, *values):
        names = [name for name, _ in kan.named_parameters()]
        return torch.func.functional_call(kan, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *parameters))
    assert torch.autograd.gradgradcheck(function, (x, *parameters))


@pytest.mark.parametrize("basis", BASES)
def test_training_on_slopes_reaches_every_parameter(basis):
    kan = random_kan(basis, torch.float32)
    x = torch.randn(40, 5, generator=seeded(), requires_grad=True)
    (force,) = torch.autograd.grad(kan(x).sum(), x, create_graph=True)
    force.square().sum().backward()
    for name, parameter in kan.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("base", ["silu", "none"])
@pytest.mark.parametrize("basis", BASES)
def test_start_values_give_unit_variance(basis, base, dtype):
    x = torch.randn(4000, 64, generator=seeded(1), dtype=dtype)
    layer = KANLayer(64, 200, basis=basis, base=base, generator=seeded(2)).to(dtype)
    variance = layer(x).var(dim=0)
    # 200 random functions of 64 x 8 terms each: 0.01 is about three standard errors
    assert variance.mean().item() == pytest.approx(1.0, abs=0.05)
    assert 0.5 < variance.min() < variance.max() < 1.8


def test_start_values_come_from_the_generator_alone():
    state = torch.random.get_rng_state()
    first, second = (KAN([4, 3, 1], generator=seeded(7)) for _ in range(2))
    other = KAN([4, 3, 1], generator=seeded(8))
    KAN([4, 3, 1])
    KANLayer(4, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(first.layers[0].coefficients, other.layers[0].coefficients)


def test_leading_dimensions_are_kept_and_may_be_empty():
    kan = KAN([4, 3, 2])
    x = torch.randn(2, 5, 4, generator=seeded())
    torch.testing.assert_close(kan(x)[1], kan(x[1]))
    assert kan(x[0, 0]).shape == (2,)
    for basis in BASES:
        assert KAN([4, 3, 2], basis=basis)(torch.zeros(0, 4)).shape == (0, 2)


@pytest.mark.parametrize("basis", BASES)
def test_far_outside_the_grid_the_function_grows_no_faster_than_linearly(basis):
    kan = random_kan(basis, torch.float64, widths=(1, 1))
    x = torch.tensor([[1e3], [2e3], [3e3]], dtype=torch.float64)
    for far in (kan(x), kan(-x)):
        torch.testing.assert_close(far[2] - far[1], far[1] - far[0], rtol=1e-9, atol=0)


@pytest.mark.parametrize("base", ["silu", "none"])
@pytest.mark.parametrize("basis", BASES)
def test_functions_taken_out_add_up_to_the_layer_with_its_slopes(basis, base):
    layer = KANLayer(3, 2, basis=basis, base=base, generator=seeded()).double()
    with torch.no_grad():
        layer.input_gain.copy_(torch.tensor([0.8, -1.4, 0.3]))
    x = torch.linspace(-4, 4, 31, dtype=torch.float64).unsqueeze(1).repeat(1, 3).requires_grad_()
    functions, y = layer.univariate(x), layer(x)  # [31, 3, 2] and [31, 2]
    torch.testing.assert_close(functions.sum(1), y, atol=1e-13, rtol=0)
    for output in range(2):
        slopes, expected = (
            torch.autograd.grad(f[..., output].sum(), x, retain_graph=True)[0]
            for f in (functions, y)
        )
        torch.testing.assert_close(slopes, expected, atol=1e-13, rtol=0)


def test_one_layer_is_a_sum_of_univariate_functions():
    kan = KAN([2, 1], basis="bspline", generator=seeded()).double()
    a, b = torch.randn(2, 9, 1, generator=seeded(), dtype=torch.float64)
    zero = torch.zeros_like(a)
    both = kan(torch.cat([a, b], 1))
    torch.testing.assert_close(
        both, kan(torch.cat([a, zero], 1)) + kan(torch.cat([zero, b], 1)), atol=1e-14, rtol=0
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "relu"}, "base, got relu; allowed: silu, none; set base"),
        ({"input_gain": "fixed"}, "input_gain, got fixed; allowed: learned, none"),
        ({"tails": "zero"}, "tails, got zero; allowed: linear"),
        ({"grid_range": (1.0, 2.0)}, "lower <= 0 <= upper"),
        ({"grid_range": (2.0, -2.0)}, "lower <= 0 <= upper"),
        ({"grid_range": (-2.0, float("nan"))}, "grid_range, got .*nan"),
        ({"num_basis": 0}, "num_basis of the gaussian basis, got 0"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(options, message):
    with pytest.raises(KanMdError, match=message) as raised:
        KANLayer(2, 1, **options)
    assert "\n" not in str(raised.value)


def test_a_network_needs_two_widths_and_features():
    with pytest.raises(KanMdError, match=r"widths of a KAN, got \[3\]"):
        KAN([3])
    with pytest.raises(KanMdError, match="out_features, got 0"):
        KAN([3, 0])
