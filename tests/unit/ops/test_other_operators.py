"""Polynomial, piecewise sum, radial table: operator against plain torch, and that against scipy."""

from __future__ import annotations

import itertools
from math import factorial

import plain_operators
import pytest
import torch
from ops_support import check_reverse
from scipy.interpolate import PPoly, make_interp_spline

from kan_md.ops.layout import make_polynomial, pack_coefficients, pack_outputs
from kan_md.ops.tables import make_table

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
COMPONENTS, OUTPUTS = [1, 2, 3], [1, 3]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def value_and_gradient(function, x, weight=None):
    x = x.detach().requires_grad_(True)
    out = function(x)
    weight = torch.randn_like(out) if weight is None else weight
    return weight, out.detach(), torch.autograd.grad((out * weight).sum(), x)[0]


def assert_same(operator, plain, x):
    weight, expected, gradient = value_and_gradient(plain, x)
    _, found, found_gradient = value_and_gradient(operator, x, weight)
    for f, e in ((found, expected), (found_gradient, gradient)):
        assert f.dtype == e.dtype
        scale = e.abs().max().clamp_min(1.0) if e.numel() else 1.0
        torch.testing.assert_close(f / scale, e / scale, rtol=0, atol=TOLERANCE[x.dtype])


def random_monomials(num_components, num_outputs):
    every = [
        m
        for degree in (1, 2, 3)
        for m in itertools.combinations_with_replacement(range(num_components), degree)
    ]
    keep = torch.rand(num_outputs, len(every)) < 0.3
    return [[m for m, k in zip(every, row, strict=True) if k] for row in keep.tolist()]


def polynomial_arguments(dtype, *, num_atoms, channels):
    monomials = random_monomials(6, 4)
    monomials[2] = []  # an output without terms
    nest = make_polynomial(monomials)
    values = torch.randn(3, len(nest.terms), channels, dtype=dtype)
    types = torch.randint(3, (num_atoms,))
    a = torch.randn(num_atoms * 6, channels, dtype=dtype)  # blocks of 1, 2 and 3 components
    return a, types, values, nest


@DTYPES
@pytest.mark.parametrize(("num_atoms", "channels"), [(9, 16), (5, 21), (1, 3), (0, 8)])
def test_polynomial_equals_plain_torch(operators, num_atoms, channels, dtype):
    a, types, values, nest = polynomial_arguments(dtype, num_atoms=num_atoms, channels=channels)
    rest = (types, pack_coefficients(values), nest.program, COMPONENTS, OUTPUTS)
    assert_same(
        lambda x: operators.polynomial(x, *rest), lambda x: plain_operators.polynomial(x, *rest), a
    )


@DTYPES
@pytest.mark.parametrize("num_centres", [0, 2, 5])
def test_polynomial_of_the_first_atoms_alone(operators, num_centres, dtype):
    a, types, values, nest = polynomial_arguments(dtype, num_atoms=5, channels=21)
    rest = (types, pack_coefficients(values), nest.program, COMPONENTS, OUTPUTS)
    rest = (*rest, torch.tensor([num_centres]))
    assert_same(
        lambda x: operators.polynomial(x, *rest), lambda x: plain_operators.polynomial(x, *rest), a
    )


@pytest.mark.parametrize(
    ("dtype", "last"),
    [(torch.float32, ()), (torch.float64, (torch.tensor([3]),))],
    ids=["float32, all atoms", "float64, first atoms"],
)
def test_tracers_see_what_the_polynomial_does(operators, dtype, last):
    a, types, values, nest = polynomial_arguments(dtype, num_atoms=4, channels=5)
    packed = pack_coefficients(values)
    args = (a.requires_grad_(True), types, packed, nest.program, COMPONENTS, OUTPUTS, *last)
    torch.library.opcheck(operators.polynomial.default, args)
    out = operators.polynomial(*args)
    check_reverse(operators.polynomial_backward, (out.detach(), *args))


@DTYPES
def test_tracers_see_what_the_piecewise_sum_does(operators, dtype):
    *_, rest = piece_arguments(dtype, num_inputs=5)
    x = torch.randn(6, 5, dtype=dtype, requires_grad=True)
    torch.library.opcheck(operators.piecewise_sum.default, (x, *rest))
    torch.library.opcheck(operators.piecewise_sum.default, (x.detach(), *rest, False))


def test_polynomial_of_the_plain_form_is_the_sum_of_its_terms():
    a, types, values, nest = polynomial_arguments(torch.float64, num_atoms=4, channels=5)
    one, two, three = a.split([4 * n for n in COMPONENTS])
    rows = torch.cat([one.view(4, 1, 5), two.view(4, 2, 5), three.view(4, 3, 5)], dim=1)
    expected = torch.zeros(4, 4, 5, dtype=torch.float64)
    for number, (output, monomial) in enumerate(nest.terms):
        product = values[types, number]
        for component in monomial:
            product = product * rows[:, component]
        expected[:, output] += product
    expected = torch.cat([expected[:, :1].reshape(-1, 5), expected[:, 1:].reshape(-1, 5)])
    packed = pack_coefficients(values)
    found = plain_operators.polynomial(a, types, packed, nest.program, COMPONENTS, OUTPUTS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_inconsistent_program_is_refused(operators):
    a, types, values, nest = polynomial_arguments(torch.float64, num_atoms=4, channels=5)
    packed = pack_coefficients(values)
    with pytest.raises(RuntimeError, match="ends early"):
        operators.polynomial(a, types, packed, nest.program[:-1].clone(), COMPONENTS, OUTPUTS)
    with pytest.raises(RuntimeError, match="terms"):
        operators.polynomial(a, types, packed[:, :, 1:], nest.program, COMPONENTS, OUTPUTS)


def piece_arguments(dtype, *, num_inputs):
    """Clamped quintic splines with linear tails, from scipy; x = 0 is the sixth knot."""
    step = 0.2 + 0.1 * torch.rand(num_inputs, dtype=torch.float64)
    knots = step.unsqueeze(1) * torch.arange(-5, 6)
    pieces = torch.zeros(num_inputs, 12, 8, dtype=torch.float64)
    splines = []
    for i in range(num_inputs):
        spline = make_interp_spline(knots[i].numpy(), torch.randn(11).numpy(), k=5)
        splines.append(spline)
        powers = PPoly.from_spline(spline)
        for power in range(6):
            derivative = powers(knots[i, :-1].numpy(), nu=power)
            scale = step[i] ** power / factorial(power)
            pieces[i, 1:-1, power] = torch.from_numpy(derivative) * scale
        for piece, knot in ((0, 0), (11, 10)):
            slope = float(spline(knots[i, knot], 1)) * float(step[i])
            value = float(spline(knots[i, knot]))
            pieces[i, piece, 0] = value - slope if piece == 0 else value
            pieces[i, piece, 1] = slope
    return splines, knots, [pieces.to(dtype), (1 / step).to(dtype), 6]


@DTYPES
@pytest.mark.parametrize("num_inputs", [16, 13, 1, 70])
def test_piecewise_sum_equals_plain_torch(operators, num_inputs, dtype):
    _, _, rest = piece_arguments(dtype, num_inputs=num_inputs)
    for rows in (0, 1, 20):
        x = 2 * torch.randn(rows, num_inputs, dtype=dtype)
        assert_same(
            lambda x: operators.piecewise_sum(x, *rest)[0],
            lambda x: plain_operators.piecewise_sum(x, *rest)[0],
            x,
        )
        value, slopes = operators.piecewise_sum(x, *rest, False)
        torch.testing.assert_close(
            value, operators.piecewise_sum(x, *rest)[0], rtol=1e-6, atol=1e-6
        )
        assert slopes.shape == (0, num_inputs)


def test_piecewise_sum_of_the_plain_form_is_scipys_spline_with_linear_tails():
    splines, knots, rest = piece_arguments(torch.float64, num_inputs=3)
    x = 2 * torch.randn(50, 3, dtype=torch.float64)
    found, slopes = plain_operators.piecewise_sum(x, *rest)
    expected = torch.zeros(50, dtype=torch.float64)
    for i, spline in enumerate(splines):
        inside = x[:, i].clamp(knots[i, 0], knots[i, -1])
        slope = torch.from_numpy(spline(inside.numpy(), 1))
        expected += torch.from_numpy(spline(inside.numpy())) + slope * (x[:, i] - inside)
        torch.testing.assert_close(slopes[:, i], slope, rtol=0, atol=1e-9)
    torch.testing.assert_close(found[:, 0], expected, rtol=0, atol=1e-9)


def test_nan_stays_nan_in_a_piecewise_sum(operators):
    _, _, rest = piece_arguments(torch.float64, num_inputs=16)
    x = torch.zeros(1, 16, dtype=torch.float64)
    x[0, 3] = torch.nan
    assert operators.piecewise_sum(x, *rest)[0].isnan().all()


@DTYPES
@pytest.mark.parametrize(
    ("num_inputs", "num_outputs"), [(16, 8), (13, 16), (1, 17), (6, 24), (70, 33)]
)
def test_piecewise_values_are_the_sums_of_every_output(operators, num_inputs, num_outputs, dtype):
    outputs = [piece_arguments(dtype, num_inputs=num_inputs)[2] for _ in range(num_outputs)]
    step, origin = outputs[0][1:]  # a narrower grid changes the functions, not their smoothness
    packed = pack_outputs([pieces[..., :6] for pieces, _, _ in outputs])

    def expected(x):
        sums = [
            plain_operators.piecewise_sum(x, pieces, step, origin)[0] for pieces, _, _ in outputs
        ]
        return torch.cat(sums, dim=1)

    def found(x):
        return operators.piecewise_values(x, packed, step, origin)[:, :num_outputs]

    for rows in (0, 1, 20, 300):  # a chunk is 128
        assert_same(found, expected, 2 * torch.randn(rows, num_inputs, dtype=dtype))


def test_piecewise_values_keep_nan_and_refuse_half_a_block(operators):
    pieces, step = torch.ones(5, 3, 6, 8), torch.ones(5)
    x = torch.zeros(2, 5)
    x[1, 4] = torch.nan
    y = operators.piecewise_values(x, pieces, step, 1)
    assert torch.equal(y[0], torch.full((8,), 5.0))
    assert y[1].isnan().all()
    with pytest.raises(RuntimeError, match=r"a multiple of 8\], got \[2, 5\] and"):
        operators.piecewise_values(x, pieces[..., :4].contiguous(), step, 1)


def radial_functions(cutoff):
    """Bessel functions with a smooth cutoff: Gasteiger et al., ICLR 2020, eqs. 7 and 8."""

    def function(r):
        x = (r / cutoff).unsqueeze(1)
        envelope = 1 - 28 * x**6 + 48 * x**7 - 21 * x**8
        order = torch.arange(1, 9, dtype=torch.float64)
        return torch.sin(order * torch.pi * x) / r.unsqueeze(1) * envelope

    return function


def test_table_keeps_its_bound():
    cutoffs = [5.0, 4.0]
    functions = [radial_functions(cutoff) for cutoff in cutoffs]
    for bound in (1e-4, 1e-7):
        table = make_table(functions, cutoffs, bound=bound)
        assert table.slope_error <= bound
        r = torch.linspace(0.3, 4.9, 997, dtype=torch.float64)
        for pair, function in enumerate(functions):
            pairs = torch.full_like(r, pair, dtype=torch.int64)
            found = plain_operators.hermite(r, pairs, table.values, table.cutoffs)
            expected = torch.where((r < cutoffs[pair]).unsqueeze(1), function(r), 0.0)
            assert (found - expected).abs().max() <= bound * function(r).abs().max() * 3


def test_table_is_smooth_at_the_cutoff():
    table = make_table([radial_functions(5.0)], [5.0], bound=1e-5)
    step = 1e-3
    r = 5.0 - step * torch.arange(1, 6, dtype=torch.float64)
    pairs = torch.zeros(5, dtype=torch.int64)
    values = plain_operators.hermite(r, pairs, table.values, table.cutoffs)
    # zero with two derivatives: f = O((r_max - r)^3)
    assert (values.abs().amax(1) <= 50 * (5.0 - r) ** 3).all()


def test_plain_forms_have_second_derivatives():
    table = torch.randn(1, 5, 3, 2, dtype=torch.float64)
    cutoffs = torch.tensor([2.0], dtype=torch.float64)
    r = (2 * torch.rand(6, dtype=torch.float64)).requires_grad_(True)
    pairs = torch.zeros(6, dtype=torch.int64)
    assert torch.autograd.gradgradcheck(
        lambda r: plain_operators.hermite(r, pairs, table, cutoffs), r
    )
    a, types, values, nest = polynomial_arguments(torch.float64, num_atoms=2, channels=2)
    packed = pack_coefficients(values)
    a = a.requires_grad_(True)
    assert torch.autograd.gradgradcheck(
        lambda a: plain_operators.polynomial(a, types, packed, nest.program, COMPONENTS, OUTPUTS), a
    )
    _, _, rest = piece_arguments(torch.float64, num_inputs=3)
    x = torch.randn(4, 3, dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradgradcheck(lambda x: plain_operators.piecewise_sum(x, *rest)[0], x)
