"""What every deployed file is held to, whatever the backbone, passes, operators and dtype.

A backbone joins by a line in MODELS, a choice of passes by a line in CHOICES.
"""

import pytest
import torch

from kan_md.model.checkpoint import load_checkpoint
from kan_md_deploy import load_deployed
from kan_md_deploy.judged_graphs import reference_graphs

MODELS = {
    "allegro": {"type_names": ("Cu", "Au")},
    "nequip": {"type_names": ("Cu", "Au")},
    "mace": {"type_names": ("Ag",)},
}
CHOICES = {
    "no passes": {"passes": "none"},
    "portable": {"operators": "portable", "bound": 1e-7},
    "fused": {"operators": "fused", "bound": 1e-7},
    "fused, float32": {"operators": "fused", "dtype": "float32"},
}
TOLERANCE = {"no passes": 1e-9, "portable": 1e-6, "fused": 1e-6, "fused, float32": 1e-5}
R_MAX = 4.0

pytestmark = [
    pytest.mark.parametrize("backbone", MODELS),
    pytest.mark.parametrize("choice", CHOICES),
]


@pytest.fixture
def checkpoint(tiny_checkpoint, backbone):
    return load_checkpoint(tiny_checkpoint(backbone, **MODELS[backbone]))


@pytest.fixture
def model(deployed, backbone, choice):
    return load_deployed(deployed(backbone, deploy=CHOICES[choice], **MODELS[backbone]))


def test_energies_forces_and_virial_are_those_of_the_reference_frames(model, checkpoint, choice):
    """The reference went through positions and strain, the file goes through edge vectors."""
    tolerance = TOLERANCE[choice]
    for frame, graph in zip(
        checkpoint.reference_frames, reference_graphs(checkpoint), strict=False
    ):
        vectors, index, types, _ = graph
        energy, edge_forces = model(*graph)
        forces = torch.zeros(len(types), 3, dtype=torch.float64)
        forces.index_add_(0, index[0], edge_forces).index_add_(0, index[1], -edge_forces)
        virial = -vectors.t() @ edge_forces
        scale = frame["forces"].abs().max()
        torch.testing.assert_close(energy, frame["atomic_energy"], rtol=0, atol=10 * tolerance)
        assert (forces - frame["forces"]).abs().max() < tolerance * scale
        assert (virial - frame["virial"]).abs().max() < 10 * tolerance * frame["virial"].abs().max()


def test_edge_forces_are_the_gradient_of_the_energy(model, checkpoint, choice):
    """Along a random direction, by central differences; of local atoms among ghosts, too."""
    vectors, index, types, _ = reference_graphs(checkpoint)[0]
    single = CHOICES[choice].get("dtype") == "float32"
    direction = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1)).double()
    step = (1e-3 if single else 1e-5) * direction
    for num_local in (len(types), 3):
        local = torch.tensor([num_local])
        _, edge_forces = model(vectors, index, types, local)
        up, down = (
            model(vectors + sign * step, index, types, local)[0][:num_local].sum()
            for sign in (1, -1)
        )
        expected = (edge_forces * step).sum().item()
        relative = 2e-2 if single else 1e-5
        assert ((up - down) / 2).item() == pytest.approx(expected, rel=relative, abs=1e-9)


def test_atoms_without_edges_have_their_isolated_energies(model):
    order = list(reversed(range(len(model.manifest.type_names))))
    nothing = torch.zeros(0, 3, dtype=torch.float64), torch.zeros(2, 0, dtype=torch.int64)
    energy, edge_forces = model(*nothing, torch.tensor(order), torch.tensor([len(order)]))
    assert edge_forces.shape == (0, 3)
    expected = [model.manifest.isolated_energies[number] for number in order]
    assert energy.flatten().tolist() == pytest.approx(expected, abs=1e-12)


def test_an_empty_rank_gives_empty_tensors(model):
    nothing = torch.zeros(0, 3, dtype=torch.float64), torch.zeros(2, 0, dtype=torch.int64)
    energy, edge_forces = model(*nothing, torch.zeros(0, dtype=torch.int64), torch.tensor([0]))
    assert energy.shape == (0, 1)
    assert edge_forces.shape == (0, 3)


def test_a_pair_comes_in_smoothly_at_the_cutoff(model):
    """The envelope vanishes with two derivatives: forces fall with the square of what is left."""
    index, local = torch.tensor([[0, 1], [1, 0]]), torch.tensor([2])
    types = torch.zeros(2, dtype=torch.int64)

    def results(distance):
        vector = torch.tensor([distance, 0.0, 0.0], dtype=torch.float64)
        return model(torch.stack([vector, -vector]), index, types, local)

    energy, edge_forces = results(R_MAX + 1e-9)
    assert energy.flatten().tolist() == pytest.approx([model.manifest.isolated_energies[0]] * 2)
    assert not edge_forces.any()
    typical = results(0.8 * R_MAX)[1].abs().max()
    assert 0 < results(R_MAX - 1e-2)[1].abs().max() < 1e-2 * typical
