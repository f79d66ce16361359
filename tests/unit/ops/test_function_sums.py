"""The operators that eager KAN layers train with: they are the plain torch kernels."""

from __future__ import annotations

import pytest
import torch

from kan_md.kan import BASES, KANLayer
from kan_md.ops import function_sums, library, operators_in_layers

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
STEPS = {"bspline": 5, "gaussian": 7, "fourier": 1}
ROWS = {"bspline": 5, "gaussian": 8, "fourier": 8}


def arguments(basis, *, order=0, shifted=False, dtype=torch.float64, points=150, inputs=5, rest=3):
    """x, scale, g, w, rest, grid, family; points inside, beyond and exactly on ends and knots."""
    steps = STEPS[basis]
    zero = (0.5 * torch.randint(2 * steps + 1, (inputs,))).to(dtype)
    grid = torch.stack([zero, 0.5 + torch.rand(inputs, dtype=dtype)])
    scale = torch.tensor([1.0, -0.5, 2.0, 0.0], dtype=dtype).repeat(inputs)[:inputs]
    x = torch.randn(points, inputs, dtype=dtype) * steps
    if points:
        on_knots = (torch.randint(-1, steps + 2, (points // 2, inputs)) - zero) / scale
        x[: points // 2] = torch.where(scale == 0.0, 1.0, on_knots)
        x[-1] = 0.0
    num_powers = {"bspline": max(1, 4 - order), "gaussian": 1 + order, "fourier": 1}[basis]
    w = torch.randn(ROWS[basis], num_powers, inputs, dtype=dtype)
    if basis == "gaussian":
        number = torch.arange(8, dtype=dtype)
        w = w * torch.exp(-((zero - number.unsqueeze(-1)) ** 2)).unsqueeze(1)
    g = torch.randn(points, inputs, dtype=dtype)
    rest = torch.randn(rest, inputs, dtype=dtype)
    return x, scale, g, w, rest, grid, function_sums.Family(basis, steps, order, shifted)


def results(x, scale, g, w, rest, grid, family):
    """What the four kernels give, by weights per function and per point."""
    sizes = (*w.shape[:2], rest.shape[0])
    found = [function_sums._sums(x, scale, w, rest, grid, family)]
    for weight in (g, g[:, :1], g[:, -1:].expand_as(g)):
        found += [
            function_sums._values(x, scale, weight, w, rest, grid, family),
            *function_sums._gradients(x, scale, weight, w, rest, grid, family),
            *function_sums._moments(x, scale, weight, grid, family, *sizes),
        ]
    return found


def with_operators(operators, function, *arguments):
    before = function_sums.use_operators(operators)
    try:
        return function(*arguments)
    finally:
        function_sums.use_operators(before)


def assert_operators_are_the_kernels(operators, *arguments):
    found = with_operators(operators, results, *arguments)
    expected = with_operators(None, results, *arguments)
    for f, e in zip(found, expected, strict=True):
        assert f.shape == e.shape
        assert f.dtype == e.dtype
        scale = e.abs().max().clamp_min(1.0) if e.numel() else 1.0
        torch.testing.assert_close(f / scale, e / scale, rtol=0, atol=TOLERANCE[f.dtype])


@DTYPES
@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("basis", BASES)
def test_operators_are_the_torch_kernels(operators, basis, order, shifted, dtype):
    options = {"order": order, "shifted": shifted, "dtype": dtype}
    assert_operators_are_the_kernels(operators, *arguments(basis, **options))


@DTYPES
@pytest.mark.parametrize(("points", "inputs"), [(1, 1), (2500, 16), (1025, 37), (0, 8), (3, 0)])
@pytest.mark.parametrize("basis", BASES)
def test_any_number_of_points_and_inputs(operators, basis, points, inputs, dtype):
    options = {"points": points, "inputs": inputs, "dtype": dtype, "order": 1, "rest": 2}
    assert_operators_are_the_kernels(operators, *arguments(basis, **options))


@pytest.mark.parametrize("num_powers", [5, 6, 16])
def test_high_powers(operators, num_powers):
    x, scale, g, _, rest, grid, family = arguments("bspline")
    w = torch.randn(5, num_powers, 5, dtype=torch.float64)
    assert_operators_are_the_kernels(operators, 0.2 * x, scale, g, w, rest, grid, family)


def test_any_layout_in_memory(operators):
    x, scale, g, w, rest, grid, family = arguments("bspline", inputs=20)
    strided = [t.t().contiguous().t() for t in (x, g)]
    expected = with_operators(operators, results, x, scale, g, w, rest, grid, family)
    found = with_operators(
        operators, results, strided[0], scale, strided[1], w.mT.contiguous().mT, rest, grid, family
    )
    for f, e in zip(found, expected, strict=True):
        assert torch.equal(f, e)


@pytest.mark.parametrize("basis", BASES)
def test_one_and_two_threads_give_the_same_bits(operators, basis):
    given = arguments(basis, points=5000, inputs=20, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(with_operators(operators, results, *given))
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("basis", BASES)
def test_nan_stays_nan(operators, basis):
    x, scale, _, w, rest, grid, family = arguments(basis)
    x[3, 2] = torch.nan
    y = operators.function_sums(x, scale, w, rest, grid, *family)
    assert y.isnan().tolist() == [n == 3 for n in range(len(y))]


def make_layer(basis, *, inputs=5, dtype=torch.float64, **options):
    generator = torch.Generator().manual_seed(6)
    layer = KANLayer(inputs, 1, basis=basis, generator=generator, **options).to(dtype)
    with torch.no_grad():
        layer.input_gain.copy_(torch.linspace(0.7, -1.4, inputs))
    return layer


@DTYPES
@pytest.mark.parametrize("grid_range", [(-2.0, 2.0), (0.0, 3.0), (-3.0, 0.4)])
@pytest.mark.parametrize("basis", BASES)
def test_layer_is_zero_at_zero_bit_for_bit(operators, basis, grid_range, dtype):
    layer = make_layer(basis, inputs=37, grid_range=grid_range, dtype=dtype)
    x = torch.zeros(3, 37, dtype=dtype)
    assert not with_operators(operators, layer, x).any()


@pytest.mark.parametrize("basis", BASES)
def test_layer_has_the_derivatives_of_its_definition(operators, basis):
    layer = make_layer(basis, inputs=20)
    x = 2.0 * torch.randn(30, 20, dtype=torch.float64, requires_grad=True)

    def derivatives(function):
        y = function(x)
        (slope,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        loss = slope.square().sum() + y.square().sum()
        return y, slope, *torch.autograd.grad(loss, [x, *layer.parameters()])

    found = with_operators(operators, derivatives, layer.by_tables)
    for f, e in zip(found, derivatives(layer.by_definition), strict=True):
        torch.testing.assert_close(f, e, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("basis", BASES)
def test_numerical_first_and_second_derivatives(operators, basis):
    layer = make_layer(basis, inputs=2, num_basis=6)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    variables = [p.detach().clone().requires_grad_() for p in parameters]
    # away from knots and ends, where third derivatives jump
    x = torch.tensor([[0.31, -0.93], [2.9, 0.42], [-3.3, 3.7]], dtype=torch.float64)

    def function(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    def check():
        inputs = (x.requires_grad_(), *variables)
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)

    with_operators(operators, check)


def test_what_does_not_fit_is_refused(operators):
    x, scale, g, w, rest, grid, family = arguments("bspline")
    sums, moments = operators.function_sums, operators.function_moments
    with pytest.raises(RuntimeError, match=r"x \[points, inputs\], w \[rows, powers, inputs\]"):
        sums(x[:, 1:], scale, w, rest, grid, *family)
    with pytest.raises(RuntimeError, match=r"scale \[inputs\] and grid"):
        sums(x, scale[1:], w, rest, grid, *family)
    with pytest.raises(RuntimeError, match="one dtype, got Double and Float"):
        sums(x, scale, w.float(), rest, grid, *family)
    with pytest.raises(RuntimeError, match="float32 or float64, got Half"):
        sums(x.half(), scale, w, rest, grid, *family)
    with pytest.raises(RuntimeError, match="basis must be bspline, gaussian or fourier, got sine"):
        sums(x, scale, w, rest, grid, "sine", *family[1:])
    with pytest.raises(RuntimeError, match="must have 2 or 3 rows, got 1"):
        sums(x, scale, w, rest[:1], grid, *family)
    with pytest.raises(RuntimeError, match=r"g \[points, inputs\] or \[points, 1\]"):
        moments(x, scale, g[:, :2], grid, *family, 5, 4, 3)
    with pytest.raises(RuntimeError, match="powers must be 1 to 16, got 17"):
        moments(x, scale, g, grid, *family, 5, 17, 3)
    with pytest.raises(RuntimeError, match="even for fourier, got 5"):
        moments(x, scale, g, grid, "fourier", *family[1:], 5, 1, 3)


def test_layers_use_the_operators_within_the_scope_only(operators):
    with operators_in_layers() as available:
        assert available
        assert function_sums._operators is torch.ops.kan_md
    assert function_sums._operators is None


def test_without_a_library_layers_run_in_plain_torch(monkeypatch, tmp_path):
    monkeypatch.setenv(library.OVERRIDE, str(tmp_path / "absent.so"))
    monkeypatch.setattr(library, "_is_registered", lambda: False)
    with operators_in_layers() as available:
        assert not available
        assert function_sums._operators is None
