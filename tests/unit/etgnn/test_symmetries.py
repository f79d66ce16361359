"""What rotations, inversion, renumbering and replication do to predicted tensors."""

import numpy as np
import pytest
import torch
from etgnn_support import LEG_R_MAX, R_MAX, TENSORS, TYPES, predict, rotate_tensor
from scipy.spatial.transform import Rotation

from kan_md.backbones.etgnn import parse_tensors, receptive_field
from kan_md.model.graph import edge_graph
from kan_md.model.reference import model_input

SPECS = parse_tensors(TENSORS)
TOLERANCE = 1e-10


def by_name(specs):
    return pytest.mark.parametrize("spec", specs, ids=lambda spec: spec.name)


@pytest.fixture(scope="module")
def prediction(all_tensors_model, crystal):
    return predict(all_tensors_model, crystal)


@by_name(SPECS)
@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "rotoinversion"])
def test_tensors_turn_with_the_structure(all_tensors_model, crystal, prediction, spec, improper):
    matrix = Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix() * (-1 if improper else 1)
    turned = crystal.copy()
    turned.set_cell(crystal.cell[:] @ matrix.T)
    turned.positions = crystal.positions @ matrix.T
    found = predict(all_tensors_model, turned)[spec.field].reshape(-1, spec.num_components)
    expected = rotate_tensor(prediction[spec.field], torch.from_numpy(matrix), spec.rank)
    assert expected.abs().max() > 1e-3  # the property is not trivially zero
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@by_name(SPECS)
def test_renumbering_atoms_renumbers_tensors(all_tensors_model, crystal, prediction, spec):
    order = np.random.default_rng(1).permutation(len(crystal))
    found = predict(all_tensors_model, crystal[order])[spec.field]
    expected = prediction[spec.field]
    expected = expected[order] if spec.per == "atom" else expected
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@by_name(SPECS)
def test_a_supercell_repeats_the_cell(all_tensors_model, crystal, prediction, spec):
    supercell = predict(all_tensors_model, crystal.repeat((2, 1, 2)))[spec.field]
    expected = prediction[spec.field]
    if spec.per == "atom":
        expected = expected.repeat(4, *[1] * (expected.ndim - 1))
    elif spec.reduction == "sum":
        expected = 4 * expected
    torch.testing.assert_close(supercell, expected, atol=TOLERANCE, rtol=0)


@by_name([spec for spec in SPECS if spec.symmetry != "full"])
def test_declared_symmetry_is_exact(prediction, spec):
    tensor = prediction[spec.field].reshape(-1, *([3] * spec.rank))
    assert torch.equal(tensor, tensor.transpose(-1, -2))
    if spec.symmetry == "traceless":
        trace = tensor.diagonal(dim1=-2, dim2=-1).sum(-1)
        torch.testing.assert_close(trace, torch.zeros_like(trace), atol=1e-14, rtol=0)


def test_full_rank_two_has_an_antisymmetric_part(prediction):
    born = prediction["born_effective_charges"]
    assert (born - born.transpose(1, 2)).abs().max() > 1e-3


def test_born_charges_obey_the_acoustic_sum_rule_in_every_frame(all_tensors_model, build, crystal):
    from nequip.data import AtomicDataDict

    frames = [crystal, crystal.repeat((2, 1, 1))]
    batch = AtomicDataDict.batched_from_list([model_input(a, R_MAX, TYPES) for a in frames])
    with torch.no_grad():
        born = all_tensors_model(batch)["born_effective_charges"]
    first, second = born[: len(crystal)], born[len(crystal) :]
    assert first.sum(0).abs().max() < TOLERANCE
    assert second.sum(0).abs().max() < TOLERANCE
    raw = predict(build(tensors={"name": "bec", "acoustic_sum_rule": False}), crystal)
    assert raw["born_effective_charges"].sum(0).abs().max() > 1e-3


def test_projection_moves_every_atom_by_the_same_tensor(build, crystal):
    raw, projected = (
        predict(build(tensors={"name": "bec", "acoustic_sum_rule": rule}), crystal)[
            "born_effective_charges"
        ]
        for rule in (False, True)
    )
    shift = raw - projected
    torch.testing.assert_close(shift, raw.mean(0).expand_as(shift), atol=1e-12, rtol=0)


def test_ghosts_give_what_periodic_images_give(all_tensors_model, crystal):
    """A cluster cut out to the receptive field, as several MPI ranks see it."""
    from kan_md.backbones.etgnn.network import ATOMIC_TENSORS_KEY

    reach = receptive_field(all_tensors_model)
    assert reach == pytest.approx(3 * LEG_R_MAX)
    repeats = 7
    cluster = crystal.repeat(repeats)
    middle = (repeats**3 // 2) * len(crystal)
    local = np.arange(middle, middle + len(crystal))
    distance = np.min(
        np.linalg.norm(cluster.positions[:, None] - cluster.positions[None, local], axis=-1), axis=1
    )
    ghosts = np.setdiff1d(np.flatnonzero(distance < reach), local)
    cluster = cluster[np.concatenate([local, ghosts])]
    cluster.pbc = False
    graph = edge_graph(cluster, R_MAX, TYPES)
    data = {
        "edge_vectors": graph.edge_vectors,
        "edge_index": graph.edge_index,
        "atom_types": graph.atom_types,
        "num_local_ghost_atoms": torch.tensor([len(local), len(ghosts)]),
    }
    with torch.no_grad():
        found = all_tensors_model(data)[ATOMIC_TENSORS_KEY]
    expected = predict(all_tensors_model, crystal)[ATOMIC_TENSORS_KEY]
    torch.testing.assert_close(found[: len(local)], expected, atol=1e-12, rtol=0)
    assert not found[len(local) :].any()
