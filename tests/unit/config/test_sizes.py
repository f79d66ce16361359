"""Local potentials by size, as models and as configurations for one's own data."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
import yaml

from kan_md import deploy, load
from kan_md.cli.main import main
from kan_md.config import load_config
from kan_md.config.model_file import read_model_file
from kan_md.config.sizes import SIZES, config_for_data, size_content
from kan_md.kan import KANLayer
from kan_md.model.checkpoint import load_checkpoint, save_checkpoint


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as status:
        main(list(map(str, words)))
    return status.value.code


def test_a_size_is_a_strictly_local_model_with_a_kan(tmp_path, ag_frames, capsys):
    ag_frames[0].write(tmp_path / "ag.xyz")
    path = tmp_path / "tiny.pth"
    words = ("init", "--size", "tiny", "--structure", tmp_path / "ag.xyz", "-o", path, "--json")
    assert call(*words) == 0
    said = json.loads(capsys.readouterr().out)
    (readout,) = said["readouts"]
    assert (readout["kind"], readout["widths"]) == ("kan", [8, 1])
    checkpoint = load_checkpoint(path)
    assert checkpoint.config["model"]["num_interactions"] == 1
    # What training changes, without the couplings and constants that a file also holds.
    assert said["parameters"] == sum(p.numel() for p in checkpoint.build().parameters())
    assert said["parameters"] < 20_000


def test_a_size_with_fitted_grids_runs_on_the_operator_of_local_models(tmp_path, ag_frames):
    """Densities are small: a SiLU beside functions on their grids is too long to tabulate."""
    ag_frames[0].write(tmp_path / "ag.xyz")
    path = tmp_path / "tiny.pth"
    assert call("init", "--size", "tiny", "--structure", tmp_path / "ag.xyz", "-o", path) == 0
    checkpoint = load_checkpoint(path)
    model = checkpoint.build()
    for layer in (part for part in model.modules() if isinstance(part, KANLayer)):
        ends = torch.full((layer.in_features,), 1e-3)
        layer.set_grid(-ends, 2.7 * ends)
    save_checkpoint(replace(checkpoint, state_dict=model.state_dict()), path)
    assert "fused_local_mace" in load(deploy(path, tmp_path / "x.pth")).manifest.passes


def test_sizes_grow():
    models = [read_model_file(size_content(size)).arguments for size in SIZES]
    for smaller, larger in itertools.pairwise(models):
        keys = ("num_scalar_features", "l_max", "correlation")
        assert all(smaller[key] <= larger[key] for key in keys)
        assert any(smaller[key] < larger[key] for key in keys)
        assert smaller["r_max"] == larger["r_max"]


@pytest.mark.parametrize(
    "name", ["frames.xyz", "two words.xyz", "it's: # one.xyz", "\u00e4/x.xyz", "a/../b.xyz"]
)
@pytest.mark.parametrize("folder", [".", "runs/one"])
def test_a_written_configuration_finds_the_data(tmp_path, monkeypatch, name, folder):
    monkeypatch.chdir(tmp_path)
    target = tmp_path / folder / "config.yaml"
    target.parent.mkdir(parents=True, exist_ok=True)
    assert call("init", "--size", "small", "--config", f"{folder}/config.yaml", "--data", name) == 0
    config = load_config(target)
    (found,) = config.data.train
    assert found.resolve() == (tmp_path / name).resolve()
    assert config.readout.kind == "kan"


def test_without_data_the_place_for_them_is_named(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    assert call("init", "--size", "medium", "--config", path) == 0
    assert yaml.safe_load(path.read_text())["data"]["train"] == "train.xyz"
    assert "write your own file into data.train" in capsys.readouterr().out


def test_an_absolute_path_stays_one(tmp_path):
    text = config_for_data("tiny", tmp_path / "x.xyz", tmp_path / "elsewhere")
    assert yaml.safe_load(text)["data"]["train"] == str(tmp_path / "x.xyz")
