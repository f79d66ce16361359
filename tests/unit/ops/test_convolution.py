"""The fused convolution against its plain torch form, and that form against e3nn."""

from __future__ import annotations

import plain_operators
import pytest
import torch
from e3nn import o3
from ops_support import RandomGraph, check_reverse, random_graph

from kan_md.ops.layout import ConvolutionSpec, pack_table, with_steps

CUTOFF = 2.2
NUM_KNOTS = 9
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}

NEQUIP_LIKE = ConvolutionSpec(
    ((19, 0), (8, 1), (3, 2)),
    (
        (0, 0, 0, 0),
        (0, 1, 1, 1),
        (0, 2, 2, 2),
        (1, 0, 1, 1),
        (1, 1, 0, 0),
        (1, 1, 2, 2),
        (1, 2, 1, 1),
        (2, 1, 1, 1),
        (2, 2, 0, 0),
    ),
)
MACE_LIKE = ConvolutionSpec(
    ((16, 0), (16, 1)), ((0, 0, 0, 0), (0, 3, 3, 1), (1, 2, 3, 1), (1, 3, 2, 2))
)
HIGH_L = ConvolutionSpec(((5, 4),), ((0, 4, 0, 2), (0, 3, 4, 0), (0, 4, 4, 1)))
SPECS = {"nequip": NEQUIP_LIKE, "mace": MACE_LIKE, "high_l": HIGH_L}


def couplings_of(spec: ConvolutionSpec) -> torch.Tensor:
    rows = []
    for number, (i, l2, l3, _) in enumerate(spec.paths):
        tensor = o3.wigner_3j(spec.irreps_in[i][1], l2, l3, dtype=torch.float64)
        for m1, m2, m3 in tensor.nonzero().tolist():
            rows.append([number, m1, m2, m3, tensor[m1, m2, m3].item()])
    return torch.tensor(rows, dtype=torch.float64)


def arguments(
    spec: ConvolutionSpec,
    graph: RandomGraph,
    dtype: torch.dtype,
    *,
    num_pairs: int,
    steps: bool = True,
):
    values = torch.randn(num_pairs, NUM_KNOTS, 3, spec.num_functions, dtype=dtype)
    if steps:
        values = with_steps(values)
    in_dim = sum(channels * (2 * degree + 1) for channels, degree in spec.irreps_in)
    x = torch.randn(len(graph.atom_types) * in_dim, dtype=dtype)
    cutoffs = CUTOFF - 0.1 * torch.arange(num_pairs, dtype=torch.float64)
    return (
        graph.edge_vectors,
        x,
        graph.edge_index,
        graph.atom_types,
        pack_table(values, spec),
        cutoffs,
        couplings_of(spec),
        spec.flat_irreps,
        spec.flat_paths,
        NUM_KNOTS,
    )


def value_and_gradients(function, args, weight=None):
    vectors = args[0].detach().requires_grad_(True)
    x = args[1].detach().requires_grad_(True)
    out = function(vectors, x, *args[2:])
    weight = torch.randn_like(out) if weight is None else weight
    grads = torch.autograd.grad((out * weight).sum(), [vectors, x])
    return weight, [out.detach(), *grads]


def assert_equal(found, expected, dtype):
    for f, e in zip(found, expected, strict=True):
        assert f.shape == e.shape
        assert f.dtype == e.dtype
        scale = e.abs().max().clamp_min(1.0) if e.numel() else 1.0
        torch.testing.assert_close(f / scale, e / scale, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("num_pairs", [1, 4])
@pytest.mark.parametrize("name", SPECS)
def test_operator_equals_plain_torch_in_value_and_gradient(operators, name, num_pairs, dtype):
    args = arguments(SPECS[name], random_graph(7, 60), dtype, num_pairs=num_pairs)
    weight, expected = value_and_gradients(plain_operators.convolution, args)
    assert_equal(value_and_gradients(operators.convolution, args, weight)[1], expected, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tables_without_steps_of_files_of_before_are_read(operators, dtype):
    args = arguments(NEQUIP_LIKE, random_graph(7, 60), dtype, num_pairs=4, steps=False)
    weight, expected = value_and_gradients(plain_operators.convolution, args)
    assert_equal(value_and_gradients(operators.convolution, args, weight)[1], expected, dtype)


@pytest.mark.parametrize("num_knots", [65, 1025])
def test_slopes_in_float32_are_exact_for_any_number_of_knots(operators, num_knots):
    """Of f_k(r) = 1 + exp(-r / k); values that are rounded first lose a digit for ten knots."""
    spec = ConvolutionSpec(((16, 0),), ((0, 0, 0, 0),))
    cutoff, width = 6.0, torch.arange(1.0, 17.0, dtype=torch.float64)
    step = cutoff / (num_knots - 1)
    falling = torch.exp(-step * torch.arange(num_knots).unsqueeze(1) / width)
    values = torch.stack([1 + falling, -step / width * falling, (step / width) ** 2 * falling], 1)
    vectors = torch.tensor([1.0, 0.0, 0.0]) * torch.linspace(0.5, 5.9, 300).unsqueeze(1)
    vectors = vectors.double().requires_grad_(True)
    messages = operators.convolution(
        vectors,
        torch.ones(2 * 16),
        torch.tensor([[0], [1]]).repeat(1, len(vectors)),
        torch.tensor([0, 0]),
        pack_table(with_steps(values.unsqueeze(0)).float(), spec),
        torch.tensor([cutoff], dtype=torch.float64),
        torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]], dtype=torch.float64),
        spec.flat_irreps,
        spec.flat_paths,
        num_knots,
    )
    (found,) = torch.autograd.grad(messages.sum(), vectors)
    expected = -(torch.exp(-vectors[:, :1] / width) / width).sum(1)
    assert (found[:, 0] - expected).abs().max() < 5e-7 * expected.abs().max()


@pytest.mark.parametrize(
    "graph",
    [(3, 0), (1, 12), (1, 0), (0, 0), (40, 3)],
    ids=["no edges", "single centre", "one atom", "no atoms", "empty centres"],
)
def test_sparse_graphs(operators, graph):
    if graph == (0, 0):
        empty = torch.zeros(2, 0, dtype=torch.int64)
        graph = RandomGraph(torch.zeros(0, 3, dtype=torch.float64), empty, empty[0])
    else:
        graph = random_graph(*graph)
    args = arguments(NEQUIP_LIKE, graph, torch.float64, num_pairs=4)
    weight, expected = value_and_gradients(plain_operators.convolution, args)
    found = value_and_gradients(operators.convolution, args, weight)[1]
    assert_equal(found, expected, torch.float64)


def test_any_number_of_paths(operators):
    """Kernels of one input were kept in an array of 64."""
    paths = tuple((0, 1, 1, k) for k in range(65))
    args = arguments(
        ConvolutionSpec(((3, 0),), paths), random_graph(4, 9), torch.float64, num_pairs=1
    )
    weight, expected = value_and_gradients(plain_operators.convolution, args)
    assert_equal(
        value_and_gradients(operators.convolution, args, weight)[1], expected, torch.float64
    )


@pytest.mark.parametrize("num_centres", [0, 4, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_only_the_first_centres_are_computed(operators, dtype, num_centres):
    args = arguments(NEQUIP_LIKE, random_graph(7, 60), dtype, num_pairs=4)
    args = (*args, torch.tensor([num_centres]))
    weight, expected = value_and_gradients(plain_operators.convolution, args)
    found = value_and_gradients(operators.convolution, args, weight)[1]
    assert_equal(found, expected, dtype)
    left_out = args[2][0] >= num_centres
    assert not found[1][left_out].any()


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("num_rows", "num_centres"), [(4, 4), (4, 2), (0, 0), (7, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_first_messages_are_the_first_of_all(operators, dtype, num_rows, num_centres, name):
    """Neighbours may be atoms without messages; gradients go to them all the same."""
    spec = SPECS[name]
    args = arguments(spec, random_graph(7, 60), dtype, num_pairs=4)
    centres, first = torch.tensor([num_centres]), args[3][:num_rows]

    def first_of_all(*args):
        sizes = [7 * channels * (2 * degree + 1) for channels, degree in spec.irreps_out]
        blocks = torch.split(plain_operators.convolution(*args), sizes)
        return torch.cat([block.view(7, -1)[:num_rows].flatten() for block in blocks])

    weight, expected = value_and_gradients(first_of_all, (*args, centres))
    found = value_and_gradients(operators.messages_of_first, (*args, centres, first), weight)[1]
    assert_equal(found, expected, dtype)
    if num_centres:
        assert found[2].view(-1).count_nonzero() > 0


def test_messages_of_more_atoms_than_there_are_are_refused(operators):
    args = arguments(MACE_LIKE, random_graph(4, 10), torch.float64, num_pairs=1)
    with pytest.raises(RuntimeError, match="messages of up to 4 atoms, got 5"):
        operators.messages_of_first(*args, torch.tensor([1]), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="num_centres must be 0 to 2, got 3"):
        operators.messages_of_first(*args, torch.tensor([3]), args[3][:2])


def test_tracers_see_what_the_first_messages_are(operators):
    args = arguments(NEQUIP_LIKE, random_graph(5, 40), torch.float64, num_pairs=4)
    first = (torch.tensor([2]), args[3][:3])
    args = (args[0].requires_grad_(True), args[1].requires_grad_(True), *args[2:])
    torch.library.opcheck(operators.messages_of_first.default, (*args, *first))
    out = operators.messages_of_first(*args, *first)
    check_reverse(operators.convolution_backward, (out.detach(), *args, first[0]))


def test_more_centres_than_atoms_are_refused(operators):
    args = arguments(MACE_LIKE, random_graph(4, 10), torch.float64, num_pairs=1)
    with pytest.raises(RuntimeError, match="num_centres must be 0 to 4, got 5"):
        operators.convolution(*args, torch.tensor([5]))


@pytest.mark.parametrize(
    ("dtype", "rest"),
    [(torch.float32, ()), (torch.float64, (torch.tensor([3]),))],
    ids=["float32, all centres", "float64, first centres"],
)
def test_tracers_see_what_the_operator_does(operators, dtype, rest):
    args = arguments(NEQUIP_LIKE, random_graph(5, 40), dtype, num_pairs=4)
    args = (args[0].requires_grad_(True), args[1].requires_grad_(True), *args[2:], *rest)
    torch.library.opcheck(operators.convolution.default, args)
    out = operators.convolution(*args)
    check_reverse(operators.convolution_backward, (out.detach(), *args))


@pytest.mark.parametrize("spec", [NEQUIP_LIKE, MACE_LIKE], ids=["packed", "as it is"])
def test_thread_count_does_not_matter(operators, spec):
    args = arguments(spec, random_graph(11, 150), torch.float64, num_pairs=1)
    before = torch.get_num_threads()
    weight, expected = value_and_gradients(operators.convolution, args)
    try:
        torch.set_num_threads(3)
        found = value_and_gradients(operators.convolution, args, weight)[1]
    finally:
        torch.set_num_threads(before)
    assert_equal(found, expected, torch.float64)


def test_zero_beyond_the_cutoff(operators):
    graph = random_graph(4, 20)
    longer = graph.edge_vectors * (1.001 * CUTOFF / graph.edge_vectors.norm(dim=1, keepdim=True))
    args = arguments(MACE_LIKE, graph._replace(edge_vectors=longer), torch.float64, num_pairs=1)
    _, results = value_and_gradients(operators.convolution, args)
    assert all(not result.any() for result in results)


def test_float32_vectors_are_taken(operators):
    args = list(arguments(MACE_LIKE, random_graph(5, 40), torch.float32, num_pairs=1))
    args[0] = args[0].float()
    weight, expected = value_and_gradients(plain_operators.convolution, args)
    found = value_and_gradients(operators.convolution, args, weight)[1]
    assert_equal(found, expected, torch.float32)


def test_rotating_the_input_rotates_the_output(operators):
    spec = MACE_LIKE
    args = list(arguments(spec, random_graph(6, 50), torch.float64, num_pairs=1))
    rotation = o3.rand_matrix(dtype=torch.float64)

    def rotate(features, irreps):
        sizes = [6 * channels * (2 * degree + 1) for channels, degree in irreps]
        turned = []
        for block, (channels, degree) in zip(torch.split(features, sizes), irreps, strict=True):
            rows = block.view(6, 2 * degree + 1, channels)
            turned.append(torch.einsum("ab,nbk->nak", wigner(degree, rotation), rows).flatten())
        return torch.cat(turned)

    expected = rotate(operators.convolution(*args), spec.irreps_out)
    args[0] = args[0] @ rotation.T
    args[1] = rotate(args[1], spec.irreps_in)
    torch.testing.assert_close(operators.convolution(*args), expected, rtol=0, atol=1e-10)


def wigner(degree, rotation):
    """D with Y(Rr) = D Y(r), by least squares: e3nn's own is only good to single precision."""
    unit = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=1)
    before, after = (
        o3.spherical_harmonics(degree, v, normalize=False) for v in (unit, unit @ rotation.T)
    )
    return torch.linalg.lstsq(before, after).solution.T


@pytest.mark.parametrize("l_max", range(5))
def test_harmonics_of_the_plain_form_are_e3nns(l_max):
    unit = torch.nn.functional.normalize(torch.randn(20, 3, dtype=torch.float64), dim=1)
    expected = o3.spherical_harmonics(
        list(range(l_max + 1)), unit, normalize=False, normalization="component"
    )
    torch.testing.assert_close(
        plain_operators.spherical_harmonics(unit, l_max), expected, rtol=0, atol=1e-12
    )


def test_plain_form_is_e3nns_tensor_product_with_interpolated_weights():
    spec = ConvolutionSpec(
        ((16, 0), (16, 1)), ((0, 1, 1, 0), (1, 1, 0, 1), (1, 1, 2, 2), (1, 2, 1, 3))
    )
    product = o3.TensorProduct(
        o3.Irreps("16x0e + 16x1o"),
        o3.Irreps("0e + 1o + 2e"),
        o3.Irreps("16x1o + 16x0e + 16x2e + 16x1o"),
        [(i, l2, output, "uvu", True) for i, l2, _, output in spec.paths],
        path_normalization="none",
        irrep_normalization="none",
        shared_weights=False,
        internal_weights=False,
    ).double()
    graph = random_graph(5, 30, num_types=1)
    args = arguments(spec, graph, torch.float64, num_pairs=1)
    found = plain_operators.convolution(*args)

    lengths = graph.edge_vectors.norm(dim=1)
    values = plain_operators.unpack_table(args[4], spec, NUM_KNOTS)[:, :, :3]
    weights = plain_operators.hermite(lengths, torch.zeros(30, dtype=torch.int64), values, args[5])
    harmonics = o3.spherical_harmonics(
        [0, 1, 2], graph.edge_vectors, normalize=True, normalization="component"
    )
    scalars, vectors = args[1].split([5 * 16, 5 * 48])
    u_major = torch.cat([scalars.view(5, 16), vectors.view(5, 3, 16).mT.flatten(1)], dim=1)
    messages = product(u_major[graph.edge_index[1]], harmonics, weights)
    expected = torch.zeros(5, messages.size(1), dtype=torch.float64)
    expected.index_add_(0, graph.edge_index[0], messages)
    blocks = torch.split(expected, [48, 16, 80, 48], dim=1)
    expected = torch.cat([block.view(5, 16, -1).mT.flatten() for block in blocks])
    # e3nn rounds the 3j symbols of its product to single precision before .double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_plain_form_has_a_second_derivative():
    spec = ConvolutionSpec(((2, 0), (2, 1)), ((0, 1, 1, 0), (1, 1, 0, 1)))
    args = arguments(spec, random_graph(3, 6, length=2.0), torch.float64, num_pairs=1)

    def function(vectors, x):
        return plain_operators.convolution(vectors, x, *args[2:])

    inputs = (args[0].requires_grad_(True), args[1].requires_grad_(True))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_operator_scripts_and_differentiates_inside_torchscript(operators):
    args = arguments(MACE_LIKE, random_graph(5, 40), torch.float64, num_pairs=1)
    weight, expected = value_and_gradients(operators.convolution, args)
    scripted = torch.jit.script(_ScriptedConvolution(args))
    for _ in range(3):  # the profiling executor rewrites the graph in the first calls
        found = scripted(args[0], args[1], args[2], args[3], weight)
    assert_equal(found, expected[1:2], torch.float64)


class _ScriptedConvolution(torch.nn.Module):
    def __init__(self, args):
        super().__init__()
        self.table, self.cutoffs, self.couplings = args[4], args[5], args[6]
        self.irreps: list[int] = args[7]
        self.paths: list[int] = args[8]
        self.num_knots = NUM_KNOTS

    def forward(
        self,
        vectors: torch.Tensor,
        x: torch.Tensor,
        index: torch.Tensor,
        types: torch.Tensor,
        weight: torch.Tensor,
    ) -> list[torch.Tensor]:
        vectors = vectors.detach().requires_grad_(True)
        out = torch.ops.kan_md.convolution(
            vectors,
            x,
            index,
            types,
            self.table,
            self.cutoffs,
            self.couplings,
            self.irreps,
            self.paths,
            self.num_knots,
        )
        grad = torch.autograd.grad([(out * weight).sum()], [vectors])[0]
        assert grad is not None
        return [grad]


def test_unsorted_edges_are_refused(operators):
    graph = random_graph(4, 10)
    args = list(arguments(MACE_LIKE, graph, torch.float64, num_pairs=1))
    args[2] = torch.tensor([[1, 0], [0, 1]])
    args[0] = args[0][:2]
    with pytest.raises(RuntimeError, match="sorted by centre"):
        operators.convolution(*args)


def test_unknown_type_is_refused(operators):
    graph = random_graph(4, 10)
    args = list(arguments(MACE_LIKE, graph, torch.float64, num_pairs=4))
    args[3] = torch.full_like(args[3], 2)
    with pytest.raises(RuntimeError, match="atom type 2"):
        operators.convolution(*args)


def test_packing_a_table_loses_nothing():
    values = with_steps(torch.randn(2, 5, 3, NEQUIP_LIKE.num_functions))
    packed = pack_table(values, NEQUIP_LIKE)
    assert torch.equal(plain_operators.unpack_table(packed, NEQUIP_LIKE, 5), values)
