"""What every deployed file is held to in Python, whatever the model, passes, backend and dtype.

A line in tests/conformance.py is all that a new backbone or pass needs.
"""

import zipfile
from functools import cache
from pathlib import Path

import pytest
import torch
from conformance import ELEMENTS, LINES, R_MAX, Line, Model

from kan_md.contract import MANIFEST_KEY
from kan_md.model.checkpoint import Checkpoint, load_checkpoint
from kan_md.tasks.potential_function import make_edge_model
from kan_md_deploy import load_deployed
from kan_md_deploy.judged_graphs import reference_graphs

pytestmark = pytest.mark.parametrize("line", LINES.values(), ids=LINES)


@pytest.fixture(scope="module")
def checkpoint_of(tiny_checkpoint):
    loaded = {}

    def checkpoint(model: Model) -> Checkpoint:
        path = tiny_checkpoint(model.style, **model.arguments)
        if path not in loaded:
            loaded[path] = load_checkpoint(path)
        return loaded[path]

    return checkpoint


@pytest.fixture(scope="module")
def eager_of(checkpoint_of):
    """The trained model in float64, as a function of the contract's inputs."""
    built = {}

    def eager(model: Model) -> torch.nn.Module:
        checkpoint = checkpoint_of(model)
        if id(checkpoint) not in built:
            built[id(checkpoint)] = make_edge_model(checkpoint.build("float64"))
        return built[id(checkpoint)]

    return eager


@pytest.fixture(scope="module")
def load():
    return cache(load_deployed)


@pytest.fixture
def checkpoint(checkpoint_of, line):
    return checkpoint_of(line.model)


def path_of(deployed, line: Line) -> Path:
    model, choice = line
    return deployed(model.style, deploy=choice.deploy, **model.arguments)


@pytest.fixture
def file(deployed, load, line):
    return load(path_of(deployed, line))


def no_edges():
    return torch.zeros(0, 3, dtype=torch.float64), torch.zeros(2, 0, dtype=torch.int64)


def random_graph(*, types: torch.Tensor):
    """Edges that no structure has, some of them beyond the cutoff; the last atom has none."""
    generator = torch.Generator().manual_seed(5)
    connected, count = len(types) - 1, 60
    index = torch.randint(connected, (2, count), generator=generator)
    index[0] = index[0].sort().values
    vectors = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    lengths = 2.0 + 2.4 * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=1) * lengths, index


def test_energies_forces_and_virial_are_those_of_the_reference_frames(line: Line, checkpoint, file):
    """The reference went through positions and strain, the file goes through edge vectors."""
    error = line.choice.error
    graphs = reference_graphs(checkpoint)
    for frame, graph in zip(checkpoint.reference_frames, graphs, strict=False):
        vectors, index, types, _ = graph
        energy, edge_forces = file(*graph)
        forces = torch.zeros(len(types), 3, dtype=torch.float64)
        forces.index_add_(0, index[0], edge_forces).index_add_(0, index[1], -edge_forces)
        virial = -vectors.t() @ edge_forces
        torch.testing.assert_close(energy, frame["atomic_energy"], rtol=0, atol=10 * error)
        assert (forces - frame["forces"]).abs().max() < error * frame["forces"].abs().max()
        assert (virial - frame["virial"]).abs().max() < 10 * error * frame["virial"].abs().max()


@pytest.mark.parametrize("num_local", [1, 3, 8], ids="{} local atoms".format)
def test_any_graph_with_ghosts_gives_what_the_eager_model_gives(
    line: Line, eager_of, file, num_local
):
    types = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
    inputs = (*random_graph(types=types), types, torch.tensor([num_local]))
    expected, expected_forces = eager_of(line.model)(*inputs)
    energy, edge_forces = file(*inputs)
    assert energy.shape == expected.shape
    assert edge_forces.shape == expected_forces.shape
    scale = max(1.0, expected_forces.abs().max().item())
    for found, exact in (
        (energy[:num_local], expected[:num_local]),
        (edge_forces, expected_forces),
    ):
        torch.testing.assert_close(found, exact, rtol=0, atol=10 * line.choice.error * scale)


def test_elements_are_told_apart(line: Line, eager_of, file):
    """Exchanged, they give another energy, the one of the eager model."""
    types = torch.tensor([0, 1, 1, 0])
    graph, local = random_graph(types=types), torch.tensor([4])
    said = [file(*graph, t, local)[0].sum().item() for t in (types, 1 - types)]
    expected = eager_of(line.model)(*graph, 1 - types, local)[0].sum().item()
    assert said[1] == pytest.approx(expected, abs=100 * line.choice.error)
    assert abs(said[1] - said[0]) > 1e-3


def test_edge_forces_are_the_gradient_of_the_energy(line: Line, checkpoint, file):
    """Along a random direction, by central differences; of local atoms among ghosts, too."""
    vectors, index, types, _ = reference_graphs(checkpoint)[0]
    single = line.choice.single
    direction = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1)).double()
    step = (1e-3 if single else 1e-5) * direction
    for num_local in (len(types), 3):
        local = torch.tensor([num_local])
        _, edge_forces = file(vectors, index, types, local)
        up, down = (
            file(vectors + sign * step, index, types, local)[0][:num_local].sum()
            for sign in (1, -1)
        )
        expected = (edge_forces * step).sum().item()
        relative = 2e-2 if single else 1e-5
        assert ((up - down) / 2).item() == pytest.approx(expected, rel=relative, abs=1e-9)


def test_atoms_without_edges_have_their_isolated_energies(line: Line, file):
    energies = file.manifest.isolated_energies
    for types in ([0], [1, 0, 1]):
        inputs = (*no_edges(), torch.tensor(types), torch.tensor([len(types)]))
        energy, edge_forces = file(*inputs)
        assert edge_forces.shape == (0, 3)
        expected = [energies[number] for number in types]
        assert energy.flatten().tolist() == pytest.approx(expected, abs=1e-12)
    assert energies[:2] == pytest.approx(
        (-1.0, -2.0)
    )  # per_type_energy_shifts of tests/conftest.py


def test_an_empty_rank_gives_empty_tensors(line: Line, file):
    none = torch.zeros(0, dtype=torch.int64)
    energy, edge_forces = file(*no_edges(), none, torch.tensor([0]))
    assert energy.shape == (0, 1)
    assert edge_forces.shape == (0, 3)


def test_edges_beyond_the_cutoff_count_nothing(line: Line, checkpoint, file):
    vectors, index, types, num_local = reference_graphs(checkpoint)[0]
    far = torch.tensor([[R_MAX, 0.0, 0.0], [0.0, 3.0, 9.0]], dtype=torch.float64)
    where = torch.tensor([[0, 0], [1, 2]])
    more = file(torch.cat([far, vectors]), torch.cat([where, index], 1), types, num_local)
    plain = file(vectors, index, types, num_local)
    rounding = 1e-5 if line.choice.single else 1e-12
    torch.testing.assert_close(more[0], plain[0], rtol=0, atol=rounding)
    torch.testing.assert_close(more[1][2:], plain[1], rtol=0, atol=rounding)
    assert not more[1][:2].any()


def test_a_pair_comes_in_smoothly_at_the_cutoff(line: Line, file):
    """The envelope vanishes with two derivatives: forces fall with the square of what is left."""
    index, local = torch.tensor([[0, 1], [1, 0]]), torch.tensor([2])
    types = torch.zeros(2, dtype=torch.int64)

    def results(distance):
        vector = torch.tensor([distance, 0.0, 0.0], dtype=torch.float64)
        return file(torch.stack([vector, -vector]), index, types, local)

    energy, edge_forces = results(R_MAX + 1e-9)
    assert energy.flatten().tolist() == pytest.approx([file.manifest.isolated_energies[0]] * 2)
    assert not edge_forces.any()
    typical = results(0.8 * R_MAX)[1].abs().max()
    assert 0 < results(R_MAX - 1e-2)[1].abs().max() < 1e-2 * typical
    assert results(R_MAX - 1e-3)[1].abs().max() < 1e-4 * typical


def test_numbers_do_not_depend_on_the_threads(line: Line, checkpoint, file):
    if line.choice.backend == "aotinductor":
        pytest.skip("packages are compiled for a number of threads, which LAMMPS warns of")
    graph = reference_graphs(checkpoint)[1]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = file(*graph)
        torch.set_num_threads(3)
        found = file(*graph)
    finally:
        torch.set_num_threads(before)
    # Threads of a convolution may add up in another order.
    in_order = "kan_md::messages_of_first" not in file.manifest.operators
    rounding = 0.0 if in_order else 1e-6 if line.choice.single else 1e-13
    for one, other in zip(found, expected, strict=True):
        scale = max(1.0, other.abs().max().item())
        torch.testing.assert_close(one, other, rtol=0, atol=rounding * scale)


def test_the_manifest_says_what_the_file_is(line: Line, checkpoint, deployed, file):
    manifest, choice = file.manifest, line.choice
    assert manifest.backend == choice.backend
    assert manifest.dtype == ("float32" if choice.single else "float64")
    assert manifest.type_names[: len(ELEMENTS)] == ELEMENTS
    assert manifest.r_max == checkpoint.r_max == R_MAX
    fused = {name for name, report in manifest.passes.items() if "operator" in report}
    assert (line.model.taken_by in fused) == choice.fused
    assert bool(manifest.operators) == bool(fused) == choice.fused
    path = path_of(deployed, line)
    call = b"ops.kan_md." if choice.backend == "torchscript" else b"kan_md::"
    with zipfile.ZipFile(path) as archive:
        calls = {name for name in archive.namelist() if call in archive.read(name)}
    others = {name for name in calls if not name.endswith(MANIFEST_KEY)}
    assert bool(others) == choice.fused
