"""A resumed run does what its configuration says now, or refuses by name and changes nothing."""

import io
import json
import os
import shutil
import signal
import subprocess
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from kan_md.cli.main import main
from kan_md.config.overrides import kept_overrides, record_settings
from kan_md.config.schema import TrainConfig
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint
from kan_md.train import run as run_module
from kan_md.train.checkpoints import read_best
from kan_md.train.interrupt import TrainingInterrupted
from kan_md.train.loaders import train_loader
from kan_md.train.log import EpochLog, read_log
from kan_md.train.preparation import prepare_data
from kan_md.train.resumed_settings import RESUME, effect_of, find_changes
from kan_md.train.run import train


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def weights(folder):
    return load_checkpoint(folder / "model.pth").state_dict


def largest_difference(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one if one[name].numel())


class SignalAtFifthStep(EpochLog):
    """Stands in for a user: Ctrl-C within the second epoch of four steps."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 5:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def begun(tmp_path_factory, make_config):
    """A finished run of two epochs, to be copied; and what its unchanged continuation gives."""
    folder = tmp_path_factory.mktemp("resume") / "begun"
    train(make_config({"training.epochs": 2}), folder)
    longer = folder.with_name("longer")
    shutil.copytree(folder, longer)
    train(make_config({"training.epochs": 3}), longer, resume=True)
    return folder, longer


def resumed(begun, place, config, **options):
    """Copy the run, go on with it, and give what was said."""
    shutil.copytree(begun[0], place)
    screen = Console(file=io.StringIO(), width=1000)
    train(config, place, resume=True, console=screen, **options)
    return screen.file.getvalue()


def leaves(section, prefix=""):
    """Dotted names of all keys of a section of the schema."""
    for name, field in section.model_fields.items():
        inner = [a for a in (field.annotation, *getattr(field.annotation, "__args__", ()))]
        models = [a for a in inner if isinstance(a, type) and hasattr(a, "model_fields")]
        if models and "list" not in str(field.annotation):
            yield from leaves(models[0], f"{prefix}{name}.")
        else:
            yield prefix + name


def test_every_key_has_its_line():
    keys = list(leaves(TrainConfig))
    assert "training.loss.energy" in keys
    assert "training.early_stop.patience" in keys
    # Of the training each key has a line of its own, so that a new one is thought about.
    assert [key for key in keys if key.startswith("training.") and key not in RESUME] == []
    assert all(effect_of(key) for key in keys)
    # No line is about a key that is gone.
    known = {key[: len(line)] for key in keys for line in RESUME}
    assert set(RESUME) - known - {"targets.weight", "targets.unit"} == set()


def test_run_of_the_old_default_goes_on_with_the_new_one(make_config):
    before = make_config({"model.per_type_energy_shifts": "least_squares"}).model_dump(mode="json")
    assert find_changes(before, make_config()) == []
    changes = find_changes(
        make_config().model_dump(mode="json"),
        make_config({"model.per_type_energy_shifts": "least_squares"}),
    )
    assert [change.effect for change in changes] == ["refused"]


ACTS = {
    "training.loss.energy": 100.0,
    "training.loss.forces": 20.0,
    "training.loss.stress": 0.0,
    "training.loss.function": "huber",
    "training.loss.energy_per": "structure",
    "training.optimizer.name": "sgd",
    "training.optimizer.lr": 0.001,
    "training.optimizer.weight_decay": 0.5,
    "training.schedule.name": "plateau",
    "training.schedule.final": 0.5,
    "training.schedule.warmup": 0.9,
    "training.batch_size": 3,
    "training.batch_edges": 2000,
    "training.ema": None,
    "training.gradient_clip": 1e-3,
    "training.regularization.l1": 1.0,
    "training.regularization.entropy": 1.0,
    "training.stages": [{"start": 0.1, "loss": {"energy": 50.0}, "lr": 0.02}],
    "training.freeze": "backbone",
}


@pytest.mark.parametrize("key", ACTS)
def test_setting_takes_effect_on_the_steps_to_come(begun, make_config, tmp_path, key):
    said = resumed(begun, tmp_path / "r", make_config({"training.epochs": 3, key: ACTS[key]}))
    assert f"{key} " in said.split("changed: ")[1]
    rows, plain = (read_log(folder / "log.csv") for folder in (tmp_path / "r", begun[1]))
    assert rows[:2] == read_log(begun[0] / "log.csv")
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert rows[2]["val_forces_mae"] != plain[2]["val_forces_mae"]
    assert np.isfinite(rows[2]["val_forces_mae"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("training.seed", 3, r"training.seed of a resumed run, got 3; allowed: 0"),
        ("training.fresh_readout", True, r"training.fresh_readout of a resumed run, got True"),
        ("training.init_from", "model.pth", r"training.init_from of a resumed run, got .*: null"),
        ("model.r_max", 3.0, r"model.r_max of a resumed run, got 3.0; allowed: 3.2"),
        ("model.dtype", "float32", r"model.dtype of a resumed run, got float32; allowed: float64"),
        ("model.per_type_energy_scales", 2.0, r"model.per_type_energy_scales of a resumed run"),
        ("model.type_names", ["Au", "Cu"], r"model.type_names of a resumed run, got Au, Cu"),
        ("readout.num_basis", 9, r"readout.num_basis of a resumed run, got 9; allowed: 8"),
        ("data.split.seed", 1, r"data of a resumed run, train set, got other structures"),
        ("data.split.train", 0.5, r"data of a resumed run, train set, got 6 structures; .* the 8"),
        ("training.loss.energy", 5.0, r"training.loss.energy of a run without steps left \(2 of"),
    ],
)
def test_refused_setting_is_named_and_nothing_is_touched(
    begun, make_config, tmp_path, key, value, message
):
    shutil.copytree(begun[0], tmp_path / "r")
    before = content_of(tmp_path / "r")
    epochs = 2 if "without steps" in message else 3
    with pytest.raises(KanMdError, match=message):
        train(make_config({"training.epochs": epochs, key: value}), tmp_path / "r", resume=True)
    assert content_of(tmp_path / "r") == before


@pytest.mark.parametrize("key", ["training.val_batch_size", "training.device", "training.form"])
def test_setting_of_speed_alone_changes_no_number(begun, make_config, tmp_path, key):
    value = {"training.val_batch_size": 1, "training.device": "cpu", "training.form": "upstream"}[
        key
    ]
    resumed(begun, tmp_path / "r", make_config({"training.epochs": 3, key: value}))
    tolerance = 1e-8 if key == "training.form" else 1e-12  # other sums, the same numbers
    assert largest_difference(weights(tmp_path / "r"), weights(begun[1])) < tolerance


def test_results_alone_are_made_again(begun, make_config, tmp_path):
    config = make_config({"training.epochs": 2, "training.reference_frames": 1})
    assert "nothing left to train" in resumed(begun, tmp_path / "r", config)
    assert len(load_checkpoint(tmp_path / "r" / "model.pth").reference_frames) == 1
    assert largest_difference(weights(tmp_path / "r"), weights(begun[0])) == 0.0


def test_finished_run_is_left_as_it_is(begun, make_config, tmp_path):
    shutil.copytree(begun[0], tmp_path / "r")
    before = content_of(tmp_path / "r")
    for _ in range(2):
        screen = Console(file=io.StringIO(), width=1000)
        train(make_config({"training.epochs": 2}), tmp_path / "r", resume=True, console=screen)
        assert "nothing left to train, 2 of 2 epochs are done" in screen.file.getvalue()
    assert content_of(tmp_path / "r") == before


def test_results_that_were_not_written_are_written(begun, make_config, tmp_path):
    """As after a full disk or a kill at the very end."""
    shutil.copytree(begun[0], tmp_path / "r")
    for name in ("model.pth", "metrics.json", "learning_curve.png"):
        (tmp_path / "r" / name).unlink()
    train(make_config({"training.epochs": 2}), tmp_path / "r", resume=True)
    assert largest_difference(weights(tmp_path / "r"), weights(begun[0])) == 0.0
    there, here = (json.loads((f / "metrics.json").read_text()) for f in (begun[0], tmp_path / "r"))
    assert here["errors"] == there["errors"]
    assert here["epochs"] == 2
    assert here["best_epoch"] == there["best_epoch"]


def test_run_of_an_earlier_version_goes_on(begun, make_config, tmp_path):
    """Without a record in its checkpoint, and in the words of that time."""
    shutil.copytree(begun[0], tmp_path / "r")
    last = tmp_path / "r" / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=False)
    del content["kan_md"]
    content["callbacks"]["Budget"] = {"seconds": 1.0, "stage": 0}
    torch.save(content, last)
    path = tmp_path / "r" / "config.yaml"
    kept = yaml.safe_load(path.read_text())
    kept["model"]["per_type_energy_shifts"] = "least_squares"
    del kept["data"]["isolated_atoms"], kept["training"]["loss"]["energy_per"]
    path.write_text(yaml.safe_dump(kept))
    screen = Console(file=io.StringIO(), width=1000)
    train(make_config({"training.epochs": 3}), tmp_path / "r", resume=True, console=screen)
    assert "a run of an earlier version" in screen.file.getvalue()
    assert "changed: training.epochs 2 -> 3\n" in screen.file.getvalue()
    assert largest_difference(weights(tmp_path / "r"), weights(begun[1])) < 1e-12
    with pytest.raises(KanMdError, match=r"model.r_max of a resumed run"):
        train(make_config({"training.epochs": 4, "model.r_max": 3.0}), tmp_path / "r", resume=True)


def test_early_stop_stays_stopped_and_goes_on_with_more_patience(make_config, tmp_path):
    stop = {"training.epochs": 30, "training.early_stop": {"patience": 1, "min_delta": 1000.0}}
    train(make_config(stop), tmp_path)
    assert len(read_log(tmp_path / "log.csv")) == 2
    train(make_config(stop), tmp_path, resume=True)
    assert len(read_log(tmp_path / "log.csv")) == 2
    stop["training.early_stop"] = {"patience": 2, "min_delta": 1000.0}
    train(make_config(stop), tmp_path, resume=True)
    assert len(read_log(tmp_path / "log.csv")) == 3


def test_new_weights_of_the_loss_are_the_ones_used(begun, make_config, tmp_path):
    """Of two resumed runs the one that weighs energies alone has the better energies."""
    for name, loss in (
        ("e", {"energy": 1.0, "forces": 0.0}),
        ("f", {"energy": 0.0, "forces": 1.0}),
    ):
        resumed(begun, tmp_path / name, make_config({"training.epochs": 8, "training.loss": loss}))
    energies, forces = (read_log(tmp_path / name / "log.csv") for name in "ef")
    terms = {name for name in forces[-1] if name.startswith("train_loss_")}
    assert np.isnan([forces[-1][name] for name in terms if name != "train_loss_forces"]).all()
    assert energies[-1]["train_energy_mae"] < forces[-1]["train_energy_mae"]
    assert forces[-1]["train_forces_mae"] < energies[-1]["train_forces_mae"]


def test_grids_are_fitted_at_the_steps_of_now(begun, make_config, tmp_path):
    config = make_config(
        {"training.epochs": 3, "readout.fit_grid": {"steps": [3, 9], "until": 1.0}}
    )
    resumed(begun, tmp_path / "r", config)
    state = torch.load(tmp_path / "r" / "checkpoints" / "last.ckpt", weights_only=False)
    assert state["callbacks"]["GridFitCallback"]["done"] == [9]


def test_stress_that_was_not_learned_is_learned_from_now_on(make_config, tmp_path):
    loss = {"energy": 1.0, "forces": 1.0}
    train(make_config({"training.epochs": 1, "training.loss": loss}), tmp_path)
    changed = make_config({"training.epochs": 2, "training.loss": {**loss, "stress": 10.0}})
    train(changed, tmp_path, resume=True)
    rows = read_log(tmp_path / "log.csv")
    assert np.isnan(rows[0]["train_loss_stress"])
    assert rows[1]["train_loss_stress"] > 0


def test_best_epoch_is_judged_by_the_loss_of_now(begun, make_config, tmp_path):
    """A Huber loss is thousands of times smaller; it must not make an older epoch the best."""
    huber = {"energy": 1.0, "forces": 1.0, "stress": 1.0, "function": "huber", "delta": 1e-3}
    train(make_config({"training.epochs": 2, "training.loss": huber}), tmp_path / "huber")
    small = read_log(tmp_path / "huber" / "log.csv")[-1]["val_loss"]
    screen = Console(file=io.StringIO(), width=1000)
    train(make_config({"training.epochs": 4}), tmp_path / "huber", resume=True, console=screen)
    rows = read_log(tmp_path / "huber" / "log.csv")
    assert min(row["val_loss"] for row in rows[2:]) > small
    assert "best epoch so far, 2: its loss is" in screen.file.getvalue()
    best = read_best(tmp_path / "huber")
    losses = {row["epoch"]: row["val_loss"] for row in rows[2:]}
    assert best["epoch"] == min(losses, key=losses.get)


def test_plateau_begins_at_the_configured_rate_and_goes_on_exactly(begun, make_config, tmp_path):
    plateau = {"training.schedule": {"name": "plateau", "patience": 1, "factor": 0.5}}
    still = {**plateau, "training.optimizer": {"name": "sgd", "lr": 1e-7}}
    resumed(begun, tmp_path / "r", make_config({"training.epochs": 4, **plateau}))
    assert [row["lr"] for row in read_log(tmp_path / "r" / "log.csv")][2:] == [0.01, 0.01]
    train(make_config({"training.epochs": 6, **still}), tmp_path / "whole")
    for epochs in (2, 3, 6):
        resume = epochs > 2
        train(make_config({"training.epochs": epochs, **still}), tmp_path / "p", resume=resume)
    whole, parts = (read_log(tmp_path / name / "log.csv") for name in ("whole", "p"))
    assert [row["lr"] for row in parts] == [row["lr"] for row in whole]
    assert parts[-1]["lr"] < 1e-7


@pytest.mark.parametrize("name", ["adamw", "soap"])
def test_memory_of_the_optimiser_is_whole_after_a_pause(make_config, tmp_path, name):
    settings = {"training.schedule.name": "constant", "training.optimizer.name": name}
    train(make_config({"training.epochs": 3, **settings}), tmp_path / "whole")
    for epochs in (2, 3):
        train(
            make_config({"training.epochs": epochs, **settings}), tmp_path / "p", resume=epochs > 2
        )
    assert largest_difference(weights(tmp_path / "whole"), weights(tmp_path / "p")) == 0.0


@pytest.mark.parametrize("size", [1, 4])
def test_batch_size_may_change_within_an_epoch(make_config, tmp_path, monkeypatch, size):
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "EpochLog", SignalAtFifthStep)
        with pytest.raises(TrainingInterrupted):
            train(make_config({"training.epochs": 3}), tmp_path)
    train(make_config({"training.epochs": 3, "training.batch_size": size}), tmp_path, resume=True)
    rows = read_log(tmp_path / "log.csv")
    # Six steps of two structures were done; the rest of the second epoch and the third follow.
    rest = (8 - (4 // size) * size) // size
    assert [row["step"] for row in rows] == [4, 6 + rest, 6 + rest + 8 // size]
    assert rows[-1]["lr"] < 0.005


def test_batches_may_be_made_by_edges_within_an_epoch(make_config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "EpochLog", SignalAtFifthStep)
        with pytest.raises(TrainingInterrupted):
            train(make_config({"training.epochs": 3}), tmp_path)
    data = prepare_data(make_config())
    edges = max(data.datasets["train"].data_list.num_edges)
    config = make_config({"training.epochs": 3, "training.batch_edges": edges})
    number = len(train_loader(data, config.training))
    screen = Console(file=io.StringIO(), width=1000)
    train(config, tmp_path, resume=True, console=screen)
    assert f"training.batch_edges null -> {edges}" in screen.file.getvalue()
    # Two of four steps of the second epoch were done; half of those of about one structure follow.
    second = 6 + number - 2 * number // 4
    assert number > 4
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == [4, second, second + number]


def test_average_may_be_switched_on(make_config, tmp_path):
    train(make_config({"training.epochs": 1, "training.ema": None}), tmp_path)
    screen = Console(file=io.StringIO(), width=1000)
    config = make_config({"training.epochs": 2, "training.ema": 0.9})
    train(config, tmp_path, resume=True, console=screen)
    assert "the average of the weights starts from those of now" in screen.file.getvalue()
    assert len(read_log(tmp_path / "log.csv")) == 2


def test_moved_folder_and_other_spelling_go_on(make_config, alloy_file, tmp_path, monkeypatch):
    place = tmp_path / "data"
    place.mkdir()
    shutil.copy(alloy_file, place / "alloy.xyz")
    monkeypatch.chdir(tmp_path)
    train(make_config({"training.epochs": 1, "data.train": "data/alloy.xyz"}), Path("run"))
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert kept["data"]["train"] == [str(place / "alloy.xyz")]
    (tmp_path / "run").rename(tmp_path / "moved")
    shutil.copy(alloy_file, tmp_path / "other.xyz")
    config = make_config({"training.epochs": 2, "data.train": str(tmp_path / "other.xyz")})
    train(config, tmp_path / "moved", resume=True)
    assert not (tmp_path / "run").exists()
    rows = read_log(tmp_path / "moved" / "log.csv")
    assert len(rows) == 2
    assert read_best(tmp_path / "moved")["epoch"] == int(rows[1]["val_loss"] < rows[0]["val_loss"])


def test_labels_that_changed_are_refused_by_name(make_config, alloy_file, tmp_path):
    frames = ase.io.read(alloy_file, ":")
    path = tmp_path / "data.xyz"
    ase.io.write(path, frames)
    config = make_config({"training.epochs": 1, "data.train": str(path)})
    train(config, tmp_path / "run")
    for atoms in frames:
        atoms.calc.results["energy"] += 1.0
    ase.io.write(path, frames)
    longer = make_config({"training.epochs": 2, "data.train": str(path)})
    with pytest.raises(KanMdError, match=r"train set, got other labels: energy; allowed: those"):
        train(longer, tmp_path / "run", resume=True)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_checkpoint_falls_back_to_the_one_before(begun, make_config, tmp_path, damage):
    shutil.copytree(begun[1], tmp_path / "r")
    last = tmp_path / "r" / "checkpoints" / "last.ckpt"
    if damage == "cut":
        last.write_bytes(last.read_bytes()[:5000])
    else:
        last.unlink()
    screen = Console(file=io.StringIO(), width=1000)
    train(make_config({"training.epochs": 3}), tmp_path / "r", resume=True, console=screen)
    word = {"cut": "damaged", "gone": "missing"}[damage]
    assert f"last.ckpt is {word}: going on from the one before" in screen.file.getvalue()
    assert largest_difference(weights(tmp_path / "r"), weights(begun[1])) < 1e-12
    for name in ("last.ckpt", "previous.ckpt"):
        (tmp_path / "r" / "checkpoints" / name).write_bytes(b"PK")
    with pytest.raises(KanMdError, match=r"nothing that can be resumed, got .*last.ckpt is dam"):
        train(make_config({"training.epochs": 4}), tmp_path / "r", resume=True)


def test_cut_log_and_lost_best_are_no_hindrance(begun, make_config, tmp_path):
    shutil.copytree(begun[0], tmp_path / "r")
    log = tmp_path / "r" / "log.csv"
    log.write_text(log.read_text()[:-30])
    (tmp_path / "r" / "checkpoints" / "best.ckpt").write_bytes(b"PK")
    screen = Console(file=io.StringIO(), width=1000)
    train(make_config({"training.epochs": 3}), tmp_path / "r", resume=True, console=screen)
    assert "the best epoch is one of those to come" in screen.file.getvalue()
    assert [row["epoch"] for row in read_log(log)] == [0, 2]
    assert read_best(tmp_path / "r")["epoch"] == 2


def test_diverged_run_is_not_gone_on_with(make_config, tmp_path):
    config = make_config({"training.optimizer": {"name": "sgd", "lr": 1e30}})
    with pytest.raises(KanMdError, match="training diverged"):
        train(config, tmp_path)
    before = content_of(tmp_path)
    with pytest.raises(KanMdError, match=r"weights in .*last.ckpt, got NaN or infinity"):
        train(make_config({"training.epochs": 9}), tmp_path, resume=True)
    assert content_of(tmp_path) == before


def test_settings_of_earlier_commands_hold_until_something_newer_is_said(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("{model: {r_max: 4.0}, training: {epochs: 2, optimizer: {lr: 0.1}}}")
    settings = record_settings(
        path, ["training.epochs=3", "model.r_max=5", "training.ema=null", "training.epochs=4"]
    )
    kept, notes = kept_overrides(path, settings, ["training.seed=1"])
    assert kept == ["training.epochs=4", "model.r_max=5", "training.ema=null"]
    assert notes[0] == "as before: --set training.epochs=4"
    # Given anew, as a whole or in a part.
    assert kept_overrides(path, settings, ["training={epochs: 1}"])[0] == ["model.r_max=5"]
    assert "model.r_max=5" not in kept_overrides(path, settings, ["model.r_max=6"])[0]
    # The file says something else since.
    path.write_text("{model: {r_max: 4.5}, training: {epochs: 4, optimizer: {lr: 0.1}}}")
    kept, notes = kept_overrides(path, settings, [])
    assert kept == ["training.ema=null"]
    assert notes == [
        "no longer, since the file says 4.5: --set model.r_max=5",
        "as before: --set training.ema=null",
    ]


def test_command_line_goes_on_with_its_settings_and_its_own_configuration(
    alloy_file, small, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(alloy_file, tmp_path / "alloy.xyz")
    small["data"]["train"] = "alloy.xyz"
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))

    def command(*words):
        with pytest.raises(SystemExit) as ended:
            main(["train", *words, "-o", "run"])
        assert ended.value.code == 0
        return capsys.readouterr().out

    command("c.yaml", "--set", "training.epochs=1", "--set", "training.ema=null")
    said = command("c.yaml", "--resume", "--set", "training.epochs=2")
    assert "as before: --set training.ema=null" in said
    assert "changed: training.epochs 1 -> 2" in said
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").rename(tmp_path / "elsewhere" / "run")
    monkeypatch.chdir(tmp_path / "elsewhere")
    said = command("run/config.yaml", "--resume", "--set", "training.epochs=3")
    assert "changed: training.epochs 2 -> 3" in said
    assert len(read_log(tmp_path / "elsewhere" / "run" / "log.csv")) == 3


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


class FillsTheDisk(EpochLog):
    """At the start of the second epoch there is no place left."""

    full = None
    """Context in which it is."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            self.full.enter_context(self.fill())


@pytest.mark.parametrize("way", ["no space left on the disk", "a file beyond the limit"])
def test_full_disk_is_one_line_and_nothing_is_lost(
    way, request, tmp_path, make_config, monkeypatch, files_up_to
):
    if "space" in way:
        place = request.getfixturevalue("small_disk")
        fill = partial(fill_disk, place)
    else:
        place, fill = tmp_path, partial(files_up_to, 2000)
    folder = place / "run"
    with monkeypatch.context() as patch, ExitStack() as full:
        patch.setattr(run_module, "EpochLog", FillsTheDisk)
        patch.setattr(FillsTheDisk, "full", full)
        patch.setattr(FillsTheDisk, "fill", staticmethod(fill), raising=False)
        with pytest.raises(KanMdError, match=f"cannot write .*, got {way}.*go on with --resume"):
            train(make_config({"training.epochs": 3}), folder)
    assert [path.name for path in folder.rglob(".*")] == []
    assert read_log(folder / "log.csv")[0]["epoch"] == 0
    train(make_config({"training.epochs": 3}), folder, resume=True)
    train(make_config({"training.epochs": 3}), tmp_path / "whole")
    assert largest_difference(weights(tmp_path / "whole"), weights(folder)) < 1e-12
    assert [row["epoch"] for row in read_log(folder / "log.csv")] == [0, 1, 2]


@contextmanager
def fill_disk(place):
    with suppress(OSError), (place / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    yield
    (place / "ballast").unlink()
