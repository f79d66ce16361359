"""Training learns, keeps what it learned, and can be stopped anywhere without loss."""

import io
import json
import os
import signal
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from rich.console import Console

from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.reference import evaluate
from kan_md.ops import is_built
from kan_md.train import run as run_module
from kan_md.train.interrupt import TrainingInterrupted
from kan_md.train.log import EpochLog, read_log
from kan_md.train.run import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_config):
    """One finished run that several tests look at."""
    folder = tmp_path_factory.mktemp("run") / "trained"
    train(make_config({"training.epochs": 10}), folder)
    return folder


def weights(folder):
    return load_checkpoint(folder / "model.pth").state_dict


def largest_difference(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one if one[name].numel())


def test_forces_are_learned(trained):
    rows = read_log(trained / "log.csv")
    assert [row["epoch"] for row in rows] == list(range(10))
    assert rows[-1]["val_forces_mae"] < 0.5 * rows[0]["val_forces_mae"]
    assert rows[-1]["val_loss"] < 0.3 * rows[0]["val_loss"]


def test_model_file_holds_the_best_averaged_weights(trained, alloy_frames):
    errors = json.loads((trained / "metrics.json").read_text())["errors"]
    rows = read_log(trained / "log.csv")
    best = min(rows, key=lambda row: row["val_loss"])
    assert errors["val"]["forces_mae"] == pytest.approx(best["val_forces_mae"], rel=1e-9)
    assert errors["train"].keys() == errors["test"].keys() == errors["val"].keys()


def test_plain_torch_trains_as_the_operators_do_and_says_so(
    trained, make_config, tmp_path, monkeypatch
):
    if not is_built():
        pytest.skip("no operator library; run: kan-md build")
    screen = Console(file=io.StringIO(), width=200)
    monkeypatch.setattr(run_module, "operators_in_layers", lambda: nullcontext(False))
    train(make_config({"training.epochs": 10}), tmp_path / "plain", console=screen)
    assert largest_difference(weights(trained), weights(tmp_path / "plain")) < 1e-8
    assert "KAN layers in plain torch; faster after: kan-md build" in screen.file.getvalue()


def test_written_errors_are_those_of_the_model_file(trained, make_config):
    from kan_md.train.preparation import prepare_data

    frames = prepare_data(make_config()).frames["val"]
    model = load_checkpoint(trained / "model.pth").build()
    predictions = [evaluate(model, atoms) for atoms in frames]
    forces = np.concatenate(
        [
            (prediction["forces"].numpy() - atoms.get_forces()).ravel()
            for prediction, atoms in zip(predictions, frames, strict=True)
        ]
    )
    energies = [
        (float(prediction["energy"]) - atoms.get_potential_energy()) / len(atoms)
        for prediction, atoms in zip(predictions, frames, strict=True)
    ]
    stress = np.concatenate(
        [
            (
                -prediction["virial"].numpy() / atoms.get_volume() - atoms.get_stress(voigt=False)
            ).ravel()
            for prediction, atoms in zip(predictions, frames, strict=True)
        ]
    )
    errors = json.loads((trained / "metrics.json").read_text())["errors"]["val"]
    assert errors["forces_rmse"] == pytest.approx(np.sqrt(np.mean(forces**2)), rel=1e-6)
    assert errors["energy_mae"] == pytest.approx(np.mean(np.abs(energies)), rel=1e-6)
    assert errors["stress_mae"] == pytest.approx(np.mean(np.abs(stress)), rel=1e-6)


def test_model_file_tells_where_it_comes_from(trained, alloy_frames):
    checkpoint = load_checkpoint(trained / "model.pth")
    assert checkpoint.type_names == ["Cu", "Au"]
    assert checkpoint.training_summary["epochs"] == 10
    assert len(checkpoint.reference_frames) == 3
    closest = np.array(checkpoint.statistics["min_distances"]).reshape(2, 2)
    distances = [atoms.get_all_distances(mic=True) for atoms in alloy_frames]
    smallest = min(d[np.triu_indices(len(d), 1)].min() for d in distances)
    assert closest.min() == pytest.approx(smallest, abs=1e-6)  # positions have 8 decimals
    assert closest[0, 1] == closest[1, 0]


def test_curve_is_drawn_and_starts_are_not_overwritten(trained, make_config):
    assert (trained / "learning_curve.png").read_bytes()[:4] == b"\x89PNG"
    before = (trained / "model.pth").read_bytes()
    with pytest.raises(KanMdError, match=r"a finished run.*--overwrite"):
        train(make_config(), trained)
    assert (trained / "model.pth").read_bytes() == before


def test_resuming_elsewhere_says_there_is_nothing(tmp_path, make_config):
    with pytest.raises(KanMdError, match="nothing to resume"):
        train(make_config(), tmp_path / "empty", resume=True)
    with pytest.raises(KanMdError, match="--resume with --overwrite"):
        train(make_config(), tmp_path / "empty", resume=True, overwrite=True)
    assert not (tmp_path / "empty").exists()


class SignalAt(EpochLog):
    """Stands in for a user: Ctrl-C at a step."""

    step = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


# Eight training frames, two per step: steps 5 and 6 are inside the second epoch, 7 ends it.
@pytest.mark.parametrize("step", [0, 5, 7])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, make_config, monkeypatch, step):
    config = make_config(
        {
            "training.stages": [{"start": 0.6, "loss": {"energy": 10.0}, "lr": 0.002}],
            "readout.fit_grid": {"steps": [0, 6]},
        }
    )
    train(config, tmp_path / "whole")
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(SignalAt, "step", step)
        patch.setattr(run_module, "EpochLog", SignalAt)
        with pytest.raises(TrainingInterrupted, match="--resume"):
            train(config, tmp_path / "halves")
    assert signal.getsignal(signal.SIGINT) is handler
    assert not (tmp_path / "halves" / "model.pth").exists()
    train(config, tmp_path / "halves", resume=True)
    assert largest_difference(weights(tmp_path / "whole"), weights(tmp_path / "halves")) < 1e-12
    whole, halves = (read_log(tmp_path / name / "log.csv") for name in ("whole", "halves"))
    for one, other in zip(whole, halves, strict=True):
        for key in one.keys() - {"seconds"}:
            assert one[key] == pytest.approx(other[key], rel=1e-9), key


def test_resumed_run_refuses_another_model(tmp_path, make_config, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "EpochLog", SignalAt)
        with pytest.raises(TrainingInterrupted):
            train(make_config(), tmp_path)
    with pytest.raises(KanMdError, match=r"model\.r_max of a resumed run, got 3.4; allowed: 3.2"):
        train(make_config({"model.r_max": 3.4}), tmp_path, resume=True)


def test_finished_run_goes_on_with_a_larger_budget(tmp_path, make_config):
    train(make_config({"training.epochs": 1}), tmp_path)
    train(make_config({"training.epochs": 2}), tmp_path, resume=True)
    assert [row["epoch"] for row in read_log(tmp_path / "log.csv")] == [0, 1]


def test_seeds_give_different_models_and_the_same_seed_the_same(tmp_path, make_config):
    states = []
    global_state = torch.random.get_rng_state()
    for index, seed in enumerate((0, 0, 1)):
        train(make_config({"training.seed": seed, "training.epochs": 1}), tmp_path / str(index))
        states.append(weights(tmp_path / str(index)))
    assert largest_difference(states[0], states[1]) == 0.0
    assert largest_difference(states[0], states[2]) > 1e-3
    assert torch.equal(torch.random.get_rng_state(), global_state)


def test_frozen_backbone_changes_only_the_readout(tmp_path, trained, make_config):
    config = make_config(
        {
            "training.init_from": str(trained / "model.pth"),
            "training.freeze": "backbone",
            "training.epochs": 1,
            "readout": {"kind": "mlp"},
        }
    )
    train(config, tmp_path)
    old, new = weights(trained), weights(tmp_path)
    body = [name for name in new if "edge_readout" not in name]
    assert body
    assert all(torch.equal(old[name], new[name]) for name in body)
    assert {name for name in new if "edge_readout" in name} != {
        name for name in old if "edge_readout" in name
    }


def test_transfer_keeps_everything_where_the_readout_fits(tmp_path, trained, make_config):
    config = make_config(
        {
            "training.init_from": str(trained / "model.pth"),
            "training.epochs": 1,
            "training.optimizer": {"lr": 1e-9},
        }
    )
    train(config, tmp_path)
    # The old average, which is what model.pth holds, has hardly moved.
    assert largest_difference(weights(trained), weights(tmp_path)) < 1e-6


def test_misfit_of_transferred_weights_is_said(tmp_path, trained, make_config):
    config = make_config(
        {"training.init_from": str(trained / "model.pth"), "model.num_tensor_features": 2}
    )
    with pytest.raises(KanMdError, match=r"init_from .*, got num_tensor_features 2 here, 4 there"):
        train(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_time_budget_ends_the_run(tmp_path, make_config):
    config = make_config({"training.epochs": None, "training.max_time": 5.0})
    train(config, tmp_path)
    rows = read_log(tmp_path / "log.csv")
    assert rows
    assert rows[-1]["seconds"] < 5.0  # by the run's own clock
    assert rows[-1]["lr"] < 0.005  # the schedule has followed the time


def test_time_that_start_up_takes_alone_is_refused(tmp_path, make_config):
    config = make_config({"training.epochs": None, "training.max_time": 0.2})
    with pytest.raises(KanMdError, match=r"training.max_time, got 0.2 s; allowed: > .* start-up"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_early_stop(tmp_path, make_config):
    config = make_config(
        {
            "training.epochs": 30,
            "training.ema": None,
            "training.early_stop": {"patience": 4, "min_delta": 1000.0},
        }
    )
    train(config, tmp_path)
    rows = read_log(tmp_path / "log.csv")
    assert len(rows) == 5


def test_plateau_lowers_the_rate_when_nothing_improves(tmp_path, make_config):
    config = make_config(
        {
            "training.epochs": 5,
            "training.loss": {"forces": 1.0, "energy": 0.0},
            "training.optimizer": {"name": "sgd", "lr": 1e-7},
            "training.schedule": {"name": "plateau", "patience": 1, "factor": 0.5},
        }
    )
    train(config, tmp_path)
    rates = [row["lr"] for row in read_log(tmp_path / "log.csv")]
    assert rates[0] == 1e-7
    assert rates[-1] == 5e-8


@pytest.mark.parametrize("optimizer", [{"name": "sgd", "lr": 1e30}, {"lr": 1e160}])
def test_divergence_is_said_and_writes_no_model(tmp_path, make_config, optimizer):
    """Into weights that are no numbers, and into finite ones whose energies are none."""
    config = make_config({"training.optimizer": optimizer})
    with pytest.raises(KanMdError, match="training diverged"):
        train(config, tmp_path)
    assert not (tmp_path / "model.pth").exists()
