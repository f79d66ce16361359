"""From a checkpoint to a compiled file, and back to the same numbers."""

import json

import numpy as np
import pytest
import torch
import typer
from etgnn_support import R_MAX, TENSORS, TINY, TYPES, write_checkpoint
from typer.testing import CliRunner

from kan_md.cli import deploy as deploy_command
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.graph import edge_graph
from kan_md.tasks.choose import task_of_checkpoint
from kan_md_deploy import deploy, load_deployed

# One of each kind: scripting takes a second per tensor.
DEPLOYED = tuple(t for t in TENSORS if t["name"] in ("vector", "bec", "susceptibility"))


SETTINGS = {
    "tensors": list(DEPLOYED),
    "readout": {"basis": "gaussian"},
    "type_shifts": {"bec": [2.0, 1.0, -2.0]},
}


@pytest.fixture(scope="module")
def checkpoint_path(build, crystal, tmp_path_factory):
    path = tmp_path_factory.mktemp("etgnn") / "model.pth"
    return write_checkpoint(build, crystal, path, **SETTINGS)


@pytest.fixture(scope="module")
def deployed_path(checkpoint_path):
    return deploy(checkpoint_path, bound=0.0)


def test_deployed_file_gives_what_the_eager_model_gives(checkpoint_path, deployed_path, crystal):
    checkpoint = load_checkpoint(checkpoint_path)
    task = task_of_checkpoint(checkpoint)
    deployed = load_deployed(deployed_path)
    assert deployed.task.specs == tuple(
        spec.model_copy(update={"acoustic_sum_rule": spec.projects, "unit": spec.label_unit})
        for spec in task.specs
    )
    for atoms in (crystal, crystal.repeat((1, 2, 1))):
        expected = task.predict(checkpoint.build(), atoms)
        found = deployed.predict(atoms)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert found[name].shape == array.shape
            np.testing.assert_allclose(found[name], array, atol=1e-11)


def test_reference_frames_hold_the_prediction(checkpoint_path, deployed_path, crystal):
    frame = load_checkpoint(checkpoint_path).reference_frames[0]
    found = load_deployed(deployed_path).predict(crystal)
    np.testing.assert_allclose(found["bec"], frame["tensors"]["bec"].numpy(), atol=1e-11)


def test_the_manifest_says_which_tensors(deployed_path):
    manifest = load_deployed(deployed_path).manifest
    outputs = manifest.outputs
    assert (manifest.kind, manifest.backbone, manifest.num_layers) == ("tensor", "etgnn", 3)
    assert sorted(outputs["tensors"]) == sorted(t["name"] for t in DEPLOYED)
    assert outputs["tensors"]["bec"]["acoustic_sum_rule"] is True
    assert outputs["tensors"]["bec"]["first_column"] == 3  # after a vector
    assert outputs["receptive_field"] == pytest.approx(3 * TINY["triplet_r_max"])
    assert outputs["error"] < 1e-9
    born = np.array(outputs["isolated"])[:, 3:12].reshape(3, 3, 3)
    np.testing.assert_array_equal(born, np.multiply.outer([2.0, 1.0, -2.0], np.eye(3)))


def test_half_of_the_atoms_as_ghosts_changes_nothing_for_the_rest(deployed_path, crystal):
    deployed = load_deployed(deployed_path)
    graph = edge_graph(crystal, R_MAX, TYPES)
    (whole,) = deployed(*graph, torch.tensor([8]))
    (half,) = deployed(*graph, torch.tensor([4]))
    torch.testing.assert_close(half[:4], whole[:4], atol=1e-12, rtol=0)
    assert not half[4:].any()


def test_float32_file_is_close(build, crystal, tmp_path):
    path = write_checkpoint(
        build, crystal, tmp_path / "model.pth", **(SETTINGS | {"tensors": "bec"})
    )
    narrow = load_deployed(deploy(path, dtype="float32"))
    checkpoint = load_checkpoint(path)
    expected = task_of_checkpoint(checkpoint).predict(checkpoint.build(), crystal)["bec"]
    np.testing.assert_allclose(narrow.predict(crystal)["bec"], expected, atol=3e-5)
    # Deployed models project in float64, whatever their weights are.
    assert abs(narrow.predict(crystal)["bec"].sum(0)).max() < 1e-10


def test_mistakes_are_told(checkpoint_path, deployed_path, crystal):
    deployed = load_deployed(deployed_path)
    slab = crystal.copy()
    slab.pbc = [True, True, False]
    with pytest.raises(KanMdError, match=r"susceptibility is a crystal's tensor .* got pbc T T F"):
        deployed.predict(slab)
    stranger = crystal.copy()
    stranger.symbols[0] = "Xe"
    with pytest.raises(KanMdError, match="does not know, got Xe; allowed: Mg, Na, O"):
        deployed.predict(stranger)
    with pytest.raises(KanMdError, match=r"got tensor; allowed: potential; .*compute kanmd/tensor"):
        load_deployed(deployed_path, kind="potential")
    with pytest.raises(
        KanMdError, match="backend for etgnn, got aotinductor; allowed: torchscript"
    ):
        deploy(checkpoint_path, backend="aotinductor")


def test_auto_takes_the_one_backend_that_there_is(checkpoint_path, tmp_path):
    path = deploy(checkpoint_path, tmp_path / "model.deployed.pth", backend="auto")
    assert load_deployed(path).manifest.backend == "torchscript"


def test_command_line_names_the_tensors(checkpoint_path, tmp_path):
    own = typer.Typer()
    deploy_command.register(own)
    output = tmp_path / "model.deployed.pth"
    options = ["-o", str(output), "--json", "--passes", "none"]
    result = CliRunner().invoke(own, [str(checkpoint_path), *options])
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)["tensors"]) == {t["name"] for t in DEPLOYED}
