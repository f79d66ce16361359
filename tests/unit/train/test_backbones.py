"""The same words train the message-passing backbones, and the command line tells mistakes."""

import json

import ase.io
import numpy as np
import pytest
import yaml

from kan_md.cli.main import main
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint
from kan_md.train.log import read_log
from kan_md.train.run import train

HYPERPARAMETERS = {
    "nequip": {"l_max": 1, "num_layers": 2, "num_features": 4, "radial_mlp_width": 8},
    "mace": {
        "hidden_irreps": "4x0e + 4x1o",
        "max_ell": 1,
        "correlation": 2,
        "radial_MLP": [8],
    },
}


@pytest.mark.parametrize(
    ("backbone", "kind"),
    [("nequip", "kan"), ("nequip", "linear"), ("mace", "kan"), ("mace", "mlp")],
)
def test_message_passing_backbones_learn(tmp_path, make_config, backbone, kind):
    config = make_config(
        {
            "model": {
                "backbone": backbone,
                "r_max": 3.2,
                "dtype": "float64",
                **HYPERPARAMETERS[backbone],
            },
            "readout.kind": kind,
            "training.epochs": 12,
            "training.ema": None,
            "training.optimizer": {"lr": 0.03},
            "training.loss": {"energy": 10.0, "forces": 1.0, "function": "huber", "delta": 0.5},
            "training.gradient_clip": 10.0,
        }
    )
    train(config, tmp_path)
    rows = read_log(tmp_path / "log.csv")
    assert rows[-1]["val_loss"] < 0.7 * rows[0]["val_loss"]
    checkpoint = load_checkpoint(tmp_path / "model.pth")
    assert checkpoint.backbone == backbone
    assert checkpoint.build().training is False


def test_given_reference_energies_are_kept(tmp_path, make_config):
    config = make_config(
        {"model.per_type_energy_shifts": {"Cu": -1.25, "Au": -2.5}, "training.epochs": 1}
    )
    train(config, tmp_path)
    arguments = load_checkpoint(tmp_path / "model.pth").config["model"]
    assert arguments["per_type_energy_shifts"] == {"Cu": -1.25, "Au": -2.5}
    assert arguments["per_type_energy_scales"] > 0


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code, capsys.readouterr()


@pytest.fixture
def config_file(tmp_path, make_config):
    """The small configuration as a file, one epoch."""
    path = tmp_path / "config.yaml"
    content = make_config({"training.epochs": 1}).model_dump(mode="json")
    path.write_text(yaml.safe_dump(content))
    return path


def test_command_prints_a_table_or_json(config_file, tmp_path, capsys):
    code, printed = run(capsys, "train", config_file, "-o", tmp_path / "a")
    assert code == 0
    assert "forces (meV/Å)" in printed.out and "model.pth" in printed.out
    code, printed = run(capsys, "train", config_file, "-o", tmp_path / "b", "--json")
    assert code == 0
    assert json.loads(printed.out)["errors"]["val"]["forces_mae"] > 0


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.train=nowhere.xyz", "data file not found"),
        ("model.r_max=0", "model.r_max"),
        ("model.type_names=[Cu]", "element that the model does not know"),
        ("model.r_max=0.5", "increase model.r_max"),
        ("training.device=cuda", "no CUDA device"),
        ("training.init_from=nowhere.pth", "model file not found"),
        (
            "data.keys.forces=REF_forces",
            "got REF_forces, which no structure has; allowed: energy, ",
        ),
        ("data.max_force=1e-9", "train"),
        ("model.per_type_energy_shifts={Cu: 0}", "one number for each of Cu, Au"),
        ("model.hidden_irreps=8x0e", "model.hidden_irreps"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(config_file, tmp_path, capsys, setting, said):
    import torch

    if "cuda" in setting and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    code, printed = run(capsys, "train", config_file, "-o", tmp_path / "run", "--set", setting)
    assert code == 2
    assert said in printed.err
    assert printed.err.count("\n") == 1 and "Traceback" not in printed.err
    assert not (tmp_path / "run").exists()


def test_unwritable_output_is_one_line(config_file, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, printed = run(capsys, "train", config_file, "-o", tmp_path / "file")
    assert code == 2
    assert "output folder" in printed.err and "Traceback" not in printed.err


def test_stress_of_some_frames_can_be_masked(tmp_path, alloy_frames, make_config):
    frames = [atoms.copy() for atoms in alloy_frames]
    for index, (copy, atoms) in enumerate(zip(frames, alloy_frames, strict=True)):
        copy.calc = type(atoms.calc)(copy, **atoms.calc.results)
        if index % 2:
            copy.calc.results.pop("stress")
    ase.io.write(tmp_path / "partial.xyz", frames)
    changes = {"data.train": str(tmp_path / "partial.xyz"), "training.epochs": 1}
    config = make_config(changes)
    train(config, tmp_path / "run")
    rows = read_log(tmp_path / "run" / "log.csv")
    assert np.isfinite(rows[0]["train_loss"])
    with pytest.raises(KanMdError, match="mixed labels: stress"):
        train(make_config({**changes, "data.missing_stress": "error"}), tmp_path / "other")
