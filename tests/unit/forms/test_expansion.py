"""Expansions of neighbourhoods and jets of networks: harmonics of e3nn, derivatives by torch."""

import itertools

import pytest
import torch
from e3nn.o3 import spherical_harmonics

from kan_md.errors import KanMdError
from kan_md.forms.activation import TwiceSiLU
from kan_md.forms.expansion import Neighbourhoods, expand
from kan_md.forms.radial_jets import curves_of, jets_of, network_of_jets
from kan_md.ops import is_built, operators_in_layers

pytestmark = pytest.mark.skipif(not is_built(), reason="needs the operators: kan-md build")
NUM_ATOMS, NUM_TYPES = 7, 2


@pytest.fixture(autouse=True)
def operators():
    with operators_in_layers():
        yield


class Graph:
    """Random pairs of atoms, atom 6 without any, and functions of the length of each pair."""

    def __init__(self, *, l_max, channels, paired, dtype=torch.float64, seed=0):
        generator = torch.Generator().manual_seed(seed)
        count = 41
        self.vectors = torch.randn(count, 3, generator=generator, dtype=torch.float64) * 1.5
        one, other = torch.randint(NUM_ATOMS - 1, (2, count), generator=generator)
        self.centre, neighbour = torch.stack([one, other]), torch.stack([other, one])
        if not paired:
            self.centre, neighbour = one.unsqueeze(0), other.unsqueeze(0)
        types = torch.arange(NUM_ATOMS) % NUM_TYPES
        self.types = types[neighbour]
        self.neighbourhoods = Neighbourhoods.of(
            self.centre.flatten(), self.types.flatten(), num_atoms=NUM_ATOMS, num_types=NUM_TYPES
        )
        self.l_max, self.channels, self.dtype = l_max, channels, dtype
        weights = torch.randn((l_max + 1) * channels, generator=generator, dtype=torch.float64)
        self.weights = weights.to(dtype)
        self.factor = torch.ones((), dtype=dtype, requires_grad=True)

    def radial(self, lengths):
        """[num_pairs, functions] of lengths [num_pairs, 1]."""
        lengths = lengths.to(self.dtype)
        return torch.sin(self.factor * lengths * self.weights) * torch.exp(-0.3 * lengths)

    def by_operators(self, vectors):
        """The expansion as training makes it."""
        lengths = vectors.detach().norm(dim=1, keepdim=True)

        def split(x):
            return x.unflatten(-1, (self.l_max + 1, self.channels))

        return expand(
            vectors,
            split(jets_of(self.radial, lengths)),
            self.neighbourhoods,
            curves=lambda: split(curves_of(self.radial, lengths)),
        )

    def by_definition(self, vectors):
        """The expansion as a sum over edges, by e3nn."""
        a = vectors.new_zeros(NUM_ATOMS * NUM_TYPES, (self.l_max + 1) ** 2, self.channels)
        functions = self.radial(vectors.norm(dim=1, keepdim=True))
        for sign, centre, types in zip((1, -1), self.centre, self.types, strict=False):
            harmonics = spherical_harmonics(
                list(range(self.l_max + 1)), sign * vectors, True, normalization="component"
            )
            degrees = torch.tensor([d for d in range(self.l_max + 1) for _ in range(2 * d + 1)])
            radial = functions.unflatten(1, (-1, self.channels)).index_select(1, degrees)
            terms = radial * harmonics.unsqueeze(2)
            a = a.index_add(0, centre * NUM_TYPES + types, terms.to(a.dtype))
        return a.unflatten(0, (NUM_ATOMS, NUM_TYPES)).transpose(1, 2)


GRAPHS = [(0, 1, True), (1, 5, False), (2, 8, True), (3, 16, True), (4, 11, True)]


@pytest.mark.parametrize(("l_max", "channels", "paired"), GRAPHS)
def test_expansion_and_its_derivatives_are_those_of_the_sum(l_max, channels, paired):
    graph, found = Graph(l_max=l_max, channels=channels, paired=paired), []
    for function in (graph.by_operators, graph.by_definition):
        vectors = graph.vectors.clone().requires_grad_()
        a = function(vectors)
        energy = (a**2 + torch.sin(a)).sum()
        (gradient,) = torch.autograd.grad(energy, vectors, create_graph=True)
        loss = (gradient**3).sum() + energy**2
        slopes = torch.autograd.grad(loss, (vectors, graph.factor))
        found.append((a.detach(), gradient.detach(), *slopes))
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9 * expected.abs().max())


def test_loss_in_energies_or_in_gradients_alone_has_the_same_derivatives_as_in_both():
    graph = Graph(l_max=2, channels=4, paired=True)

    def slope(use_energy, use_gradient):
        vectors = graph.vectors.clone().requires_grad_()
        energy = (graph.by_operators(vectors) ** 2).sum()
        (gradient,) = torch.autograd.grad(energy, vectors, create_graph=True)
        loss = use_energy * energy + use_gradient * (gradient**2).sum()
        return torch.autograd.grad(loss, graph.factor)[0]

    vectors = graph.vectors.clone()
    energy_alone = torch.autograd.grad((graph.by_operators(vectors) ** 2).sum(), graph.factor)[0]
    torch.testing.assert_close(slope(1.0, 0.0), energy_alone)
    torch.testing.assert_close(slope(1.0, 1.0), energy_alone + slope(0.0, 1.0))


def test_gradients_of_weights_that_go_nowhere_leave_nothing_behind():
    graph = Graph(l_max=1, channels=4, paired=True)
    vectors, other = graph.vectors.clone().requires_grad_(), torch.ones((), requires_grad=True)
    energy = other * (graph.by_operators(vectors) ** 2).sum()
    (gradient,) = torch.autograd.grad(energy, vectors, create_graph=True)
    loss = (gradient**2).sum()
    (first,) = torch.autograd.grad(loss, graph.factor, retain_graph=True)
    torch.autograd.grad(loss, other, retain_graph=True)
    (second,) = torch.autograd.grad(loss, graph.factor)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_third_derivatives_are_refused():
    graph = Graph(l_max=1, channels=4, paired=True)
    vectors = graph.vectors.clone().requires_grad_()
    energy = (graph.by_operators(vectors) ** 2).sum()
    (gradient,) = torch.autograd.grad(energy, vectors, create_graph=True)
    with pytest.raises(KanMdError, match="third derivatives"):
        torch.autograd.grad((gradient**2).sum(), graph.factor, create_graph=True)


def test_bits_do_not_depend_on_the_number_of_threads_and_float32_is_float64_rounded():
    found = {}
    for dtype in (torch.float32, torch.float64):
        graph = Graph(l_max=3, channels=16, paired=True, dtype=dtype)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            vectors = graph.vectors.clone().requires_grad_()
            a = graph.by_operators(vectors)
            (gradient,) = torch.autograd.grad((a**2).sum(), vectors, create_graph=True)
            slope = torch.autograd.grad((gradient**2).sum(), graph.factor)[0]
            found[dtype, threads] = (a.detach(), gradient.detach(), slope)
        torch.set_num_threads(1)
    for dtype in (torch.float32, torch.float64):
        for one, two in zip(found[dtype, 1], found[dtype, 2], strict=True):
            assert torch.equal(one, two)
    for coarse, fine in zip(found[torch.float32, 1], found[torch.float64, 1], strict=True):
        scale = float(fine.abs().max())
        assert float((coarse.double() - fine).abs().max()) < 3e-5 * scale


def test_network_of_jets_is_the_network_and_its_slope():
    generator = torch.Generator().manual_seed(1)
    widths = (5, 7, 6, 3)
    weights = [
        torch.randn(pair, generator=generator, dtype=torch.float64, requires_grad=True)
        for pair in itertools.pairwise(widths)
    ]
    x = torch.rand(11, 1, generator=generator, dtype=torch.float64, requires_grad=True)

    def inputs(x):
        return torch.sin(x * torch.arange(1.0, 6.0, dtype=torch.float64))

    def network(y):
        for number, weight in enumerate(weights):
            y = (y * torch.sigmoid(y) if number else y) @ weight
        return y

    y = network(inputs(x))
    slopes = torch.stack(
        [torch.autograd.grad(y[:, i].sum(), x, create_graph=True)[0].view(-1) for i in range(3)], 1
    )
    jets = network_of_jets(jets_of(inputs, x.detach()), weights)
    torch.testing.assert_close(jets, torch.stack([y, slopes]))
    target = torch.randn(jets.shape, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad((torch.stack([y, slopes]) * target).sum(), weights)
    torch.testing.assert_close(torch.autograd.grad((jets * target).sum(), weights), expected)


def test_silu_along_is_what_plain_torch_gives():
    z = torch.linspace(-6, 6, 37, dtype=torch.float64, requires_grad=True)
    grad = torch.linspace(1, 2, 37, dtype=torch.float64, requires_grad=True)
    found = []
    for silu in (TwiceSiLU(), torch.nn.functional.silu):
        (slope,) = torch.autograd.grad(silu(z), z, grad, create_graph=True)
        found.append(torch.autograd.grad((slope**2).sum(), (z, grad)))
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected)
