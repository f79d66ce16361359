"""Radial functions and harmonics by the operator: upstream's, e3nn's, and their derivatives."""

import pytest
import torch
from e3nn.o3 import spherical_harmonics
from nequip.data import AtomicDataDict
from nequip.nn.embedding import (
    BesselEdgeLengthEncoding,
    EdgeLengthNormalizer,
    PolynomialCutoff,
)
from nequip.utils.global_dtype import _GLOBAL_DTYPE

from kan_md.errors import KanMdError
from kan_md.forms.edge_functions import edge_functions, edge_functions_of
from kan_md.ops import is_built, load

CUTOFFS = {"Cu": 2.9, "Au": {"Cu": 3.1, "Au": 3.4}}
TYPES = ["Cu", "Au"]


@pytest.fixture(autouse=True)
def operators():
    if not is_built():
        pytest.skip("needs the operators: kan-md build")
    load()
    if not hasattr(torch.ops.kan_md, "edge_functions"):
        pytest.skip("needs operators of these sources: kan-md build --force")


def modules(*, power=6, cutoffs=None):
    """Upstream's, whose results have the default dtype at the time when they are made."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        norm = EdgeLengthNormalizer(3.4, TYPES, cutoffs)
        return norm, BesselEdgeLengthEncoding(PolynomialCutoff(power))
    finally:
        torch.set_default_dtype(before)


def edges(count=11):
    """Vectors inside and beyond the cutoffs, their edges and the types of their ends."""
    generator = torch.Generator().manual_seed(4)
    vectors = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    lengths = torch.linspace(0.7, 3.6, count, dtype=torch.float64).unsqueeze(1)
    vectors = torch.nn.functional.normalize(vectors, dim=1) * lengths
    index = torch.randint(4, (2, count), generator=generator)
    return vectors, index, torch.tensor([0, 1, 1, 0])


@pytest.mark.parametrize("l_max", range(5))
@pytest.mark.parametrize("cutoffs", [None, CUTOFFS], ids=["one cutoff", "cutoffs"])
@pytest.mark.parametrize("power", [2, 6, 7])
def test_values_are_upstreams_and_e3nns(l_max, cutoffs, power):
    norm, bessel = modules(power=power, cutoffs=cutoffs)
    vectors, index, types = edges()
    data = {
        AtomicDataDict.EDGE_VECTORS_KEY: vectors,
        AtomicDataDict.EDGE_INDEX_KEY: index,
        AtomicDataDict.ATOM_TYPE_KEY: types,
    }
    expected = bessel(norm(data))[AtomicDataDict.EDGE_EMBEDDING_KEY]
    assert _GLOBAL_DTYPE == torch.float64 == expected.dtype
    centre, neighbour = types[index]
    functions = edge_functions_of(norm, bessel, l_max)
    radial, harmonics = edge_functions(vectors, 2 * centre + neighbour, functions, torch.float64)
    torch.testing.assert_close(radial, expected, rtol=1e-12, atol=1e-13)
    assert (radial[-1] == 0).all()  # beyond every cutoff
    exact = spherical_harmonics(
        list(range(l_max + 1)), vectors, normalize=True, normalization="component"
    )
    torch.testing.assert_close(harmonics, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("l_max", [0, 1, 3])
def test_derivatives_are_those_of_finite_differences_twice(l_max):
    vectors, index, types = edges()
    centre, neighbour = types[index]
    functions = edge_functions_of(*modules(cutoffs=CUTOFFS), l_max)

    def call(vectors):
        return edge_functions(vectors, 2 * centre + neighbour, functions, torch.float64)

    vectors.requires_grad_()
    assert torch.autograd.gradcheck(call, vectors)
    assert torch.autograd.gradgradcheck(call, vectors, atol=1e-4)


def test_single_precision_is_the_rounded_double():
    vectors, index, _ = edges()
    functions = edge_functions_of(*modules(), 2)
    exact, single = (
        edge_functions(vectors, index[0], functions, dtype)
        for dtype in (torch.float64, torch.float32)
    )
    for a, b in zip(exact, single, strict=True):
        assert torch.equal(a.float(), b)


def test_no_edges_have_no_functions():
    functions = edge_functions_of(*modules(), 2)
    vectors = torch.empty(0, 3, dtype=torch.float64, requires_grad=True)
    results = edge_functions(vectors, torch.empty(0, dtype=torch.int64), functions, torch.float32)
    assert [result.shape for result in results] == [(0, 8), (0, 9)]
    sum(result.sum() for result in results).backward()
    assert vectors.grad.shape == (0, 3)


def test_functions_that_the_operator_lacks_are_none():
    norm, bessel = modules(power=5.5)
    assert edge_functions_of(norm, bessel, 2) is None
    assert edge_functions_of(norm, torch.nn.Identity(), 2) is None


def test_third_derivatives_say_what_to_do():
    vectors, index, _ = edges()
    functions = edge_functions_of(*modules(), 1)
    vectors.requires_grad_()
    result = edge_functions(vectors, index[0], functions, torch.float64)[0].sum()
    for _ in range(2):
        result = torch.autograd.grad(result, vectors, create_graph=True)[0].sum()
    with pytest.raises(KanMdError, match=r"third derivatives .* set training\.form: upstream"):
        torch.autograd.grad(result, vectors)
