"""Convolution and contraction for training: derivatives of derivatives, order of sums, refusals."""

import contextlib

import pytest
import torch
from e3nn.o3 import Irreps, TensorProduct
from test_mace_form import make_mace

from kan_md.forms.contraction import Contraction
from kan_md.forms.convolutions import Convolution, Ends
from kan_md.ops import is_built, load, operators_in_layers

needs_operators = pytest.mark.skipif(not is_built(), reason="needs the operators: kan-md build")
BOTH = pytest.mark.parametrize(
    "operators", [pytest.param(True, marks=needs_operators), False], ids=["operators", "torch"]
)
NUM_ATOMS, NUM_PAIRS = 4, 7


def product_of(channels=2):
    features, harmonics = Irreps(f"{channels}x0e + {channels}x1o"), Irreps("0e + 1o + 2e")
    paths = [(0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 2, 1)]
    return TensorProduct(
        features,
        harmonics,
        Irreps([features[min(out, 1)] for _, _, out in paths]),
        [(i, j, k, "uvu", True) for k, (i, j, _) in enumerate(paths)],
        shared_weights=False,
        internal_weights=False,
    )


def arguments(product, num_rows, *, dtype=torch.float64):
    """Edges from each atom to another and back, some atoms without any; all that is given."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    one, other = torch.randint(0, NUM_ATOMS - 1, (2, NUM_PAIRS), generator=generator)
    ends = Ends(torch.cat([one, other]), torch.cat([other, one]), NUM_ATOMS)
    tensors = (
        random(NUM_ATOMS, product.irreps_in1.dim),
        random(2 * NUM_PAIRS, product.irreps_in2.dim),
        random(num_rows, product.weight_numel),
    )
    return tuple(t.requires_grad_() for t in tensors), ends


@BOTH
@pytest.mark.parametrize("num_rows", [NUM_PAIRS, 2 * NUM_PAIRS], ids=["shared weights", "own"])
def test_derivatives_of_convolution_are_those_of_finite_differences_twice(operators, num_rows):
    product = product_of()
    convolution = Convolution(product, dtype=torch.float64)
    given, ends = arguments(product, num_rows)
    with operators_in_layers() if operators else contextlib.nullcontext():
        assert torch.autograd.gradcheck(lambda *x: convolution(*x, ends), given)
        assert torch.autograd.gradgradcheck(lambda *x: convolution(*x, ends), given)


@BOTH
def test_convolution_is_e3nns_product_summed(operators):
    product = product_of(channels=19)  # one vector and a rest
    given, ends = arguments(product, NUM_PAIRS)
    features, harmonics, weights = given
    messages = product.double()(features[ends.source], harmonics, weights.repeat(2, 1))
    expected = torch.zeros(NUM_ATOMS, product.irreps_out.dim, dtype=torch.float64)
    expected = expected.index_add(0, ends.target, messages)
    with operators_in_layers() if operators else contextlib.nullcontext():
        found = Convolution(product, dtype=torch.float64)(*given, ends)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # e3nn's symbols: float32


@BOTH
def test_derivatives_of_contraction_are_those_of_finite_differences_twice(operators):
    layer = make_mace(hidden_irreps="2x0e", max_ell=2).model.func.layer0
    contraction = Contraction(layer.product)
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 9, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    with operators_in_layers() if operators else contextlib.nullcontext():
        assert torch.autograd.gradgradcheck(lambda x: contraction(x, [(0, 1), (1, 2)]), (a,))


@needs_operators
def test_sums_do_not_depend_on_the_number_of_threads():
    load()
    product = product_of(channels=16)
    convolution = Convolution(product, dtype=torch.float32)
    contraction = Contraction(make_mace(max_ell=2).model.func.layer0.product.float())
    a = torch.randn(7, 9, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            given, ends = arguments(product, NUM_PAIRS, dtype=torch.float32)
            with operators_in_layers():
                out = convolution(*given, ends)
                contracted = contraction(a, [(0, 3), (1, 4)])
                first = torch.autograd.grad(out.square().sum(), given, create_graph=True)
                second = torch.autograd.grad(sum(g.square().sum() for g in first), given)
                (force,) = torch.autograd.grad(contracted.square().sum(), a, create_graph=True)
                third = torch.autograd.grad(force.square().sum(), a)
            found.append([out, contracted, force, *first, *second, *third])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


def zeros(*shape):
    return torch.zeros(*shape)


def numbers(*shape):
    return torch.zeros(*shape, dtype=torch.int64)


@needs_operators
def test_operators_refuse_what_does_not_fit():
    load()
    places = (numbers(4), numbers(4), numbers(3), numbers(1, 7), 2, False)
    sums, nothing = torch.ops.kan_md.message_sums, (None, None, None)
    with pytest.raises(RuntimeError, match="as many edges as weights or twice as many"):
        sums(zeros(3, 2), zeros(4, 1), zeros(2, 2), *nothing, *places)
    with pytest.raises(RuntimeError, match="a direction like"):
        sums(*(zeros(4, 2), zeros(4, 1), zeros(2, 2)), zeros(4, 1), zeros(4, 1), None, *places)
    with pytest.raises(RuntimeError, match="blocks of 1, 3, 5 or 7 components, got 0"):
        sums(zeros(4, 2), zeros(4, 1), zeros(2, 2), *nothing, *places)
    with pytest.raises(RuntimeError, match="first leaves atoms out"):
        torch.ops.kan_md.contraction(
            zeros(3, 2, 2), zeros(1, 0, 2), numbers(2), numbers(1).int(), 1
        )
