"""What is seen of a run while it goes on, and where its time went."""

import importlib.util
import io
import json
import re

import pytest
from lightning.pytorch.callbacks import Checkpoint
from rich.console import Console

from kan_md.errors import KanMdError
from kan_md.train import log as log_module
from kan_md.train import run as run_module
from kan_md.train.log import EpochLog, LiveCurve, in_words, read_log
from kan_md.train.loggers import logged_names, make_loggers
from kan_md.train.part_times import PartTimes, parts_line
from kan_md.train.run import train


class Impatient(LiveCurve):
    """Draws at every epoch."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options, seconds=0.0)


class Watcher(EpochLog):
    """Looks at the folder behind each epoch."""

    curves: list[bool] = []  # noqa: RUF012 - emptied by the fixture

    def on_train_epoch_start(self, trainer, pl_module):
        self.curves.append((self.path.parent / "learning_curve.png").exists())


@pytest.fixture(scope="module")
def watched(tmp_path_factory, make_config):
    """A run of three epochs with a grid fit: folder, what was printed, curves that were there."""
    folder = tmp_path_factory.mktemp("log") / "run"
    screen = Console(file=io.StringIO(), width=1000)
    Watcher.curves.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "LiveCurve", Impatient)
        patch.setattr(run_module, "EpochLog", Watcher)
        patch.setattr(log_module, "_SHARE_OF_CURVES", 1e9)
        config = make_config({"readout.fit_grid": {"steps": [0, 3]}})
        train(config, folder, console=screen)
    return folder, screen.file.getvalue().splitlines(), list(Watcher.curves)


def test_every_epoch_has_its_line_with_the_numbers_of_the_log(watched):
    folder, lines, _ = watched
    rows = read_log(folder / "log.csv")
    shown = [line for line in lines if re.match(r"epoch \d", line)]
    assert len(shown) == len(rows) == 3
    for line, row in zip(shown, rows, strict=True):
        words = line.split("  ")
        assert words[0] == f"epoch {row['epoch'] + 1}/3"
        assert words[1] == f"loss {row['val_loss']:.4g}"
        assert words[2] == f"E {1000 * row['val_energy_mae']:.4g}"
        assert words[3] == f"F {1000 * row['val_forces_mae']:.4g}"
        assert words[4] == f"S {1000 * row['val_stress_mae']:.4g}"
        assert words[5] == f"lr {row['lr']:.2g}"
        atoms, edges = (float(word.split()[0].replace(",", "")) for word in words[6:8])
        assert 0 < atoms < edges
    assert shown[-1].endswith("  0 s left")
    (units,) = [line for line in lines if line.startswith("epochs, ")]
    assert "E meV/atom, F meV/Å, S meV/Å³" in units


def test_curve_is_there_while_the_run_goes_on(watched):
    assert watched[2] == [False, True, True]


def test_times_of_the_parts_are_told_and_kept(watched):
    folder, lines, _ = watched
    results = json.loads((folder / "metrics.json").read_text())
    parts = results["parts"]
    assert {"forward and forces", "gradient", "validation", "data and graphs"} <= parts.keys()
    assert all(seconds >= 0 for seconds in parts.values())
    assert sum(parts.values()) == pytest.approx(results["wall_seconds"], rel=0.1, abs=0.2)
    slowest = next(iter(parts))
    assert any(f"slowest {slowest} " in line for line in lines)


def test_gradient_is_no_part_of_the_optimiser():
    """Lightning's step of the optimiser calls the other two; what nothing names is the rest."""
    times = PartTimes()
    times.seconds |= {
        "[Strategy]DDPStrategy.training_step": 3.0,
        "[Strategy]DDPStrategy.backward": 4.0,
        "[LightningModule]AveragedModule.optimizer_step": 8.0,
        "[Callback]Budget.on_train_batch_end": 0.5,
    }
    parts = times.parts(10.0)
    assert parts["optimiser"] == pytest.approx(1.0)
    assert parts["rest"] == pytest.approx(2.0)
    assert parts_line(parts).startswith("time 10 s, slowest gradient 40 %, forward and forces 30 %")


def test_steps_of_a_grid_fit_are_those_of_the_fast_form(make_config, tmp_path, monkeypatch):
    """A watched model would be evaluated as upstream does it."""
    from kan_md.forms import choice

    watched_calls = []
    original = choice._is_watched

    def is_watched(model):
        watched_calls.append(original(model))
        return watched_calls[-1]

    monkeypatch.setattr(choice, "_is_watched", is_watched)
    train(make_config({"training.epochs": 1, "readout.fit_grid": {"steps": [0]}}), tmp_path)
    assert watched_calls and not any(watched_calls)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_absent_logger_says_what_to_install(make_config, tmp_path, monkeypatch, name):
    monkeypatch.setattr("kan_md.train.loggers.find_spec", lambda package: None)
    with pytest.raises(KanMdError, match=f"{name} needs .* got not installed; pip install {name}"):
        train(make_config({"training.loggers": ["csv", name]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_loggers_get_the_rows_of_the_log(make_config, tmp_path, monkeypatch):
    from lightning.pytorch.loggers import CSVLogger

    monkeypatch.setattr(
        "kan_md.train.trainer.make_loggers",
        lambda names, folder: [CSVLogger(folder, name="other", version="")],
    )
    train(make_config({"training.epochs": 2}), tmp_path)
    rows = read_log(tmp_path / "log.csv")
    lines = (tmp_path / "other" / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    assert set(names) >= {*logged_names(rows[0]), "step"}
    kept = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    for row, other in zip(rows, kept[: len(rows)], strict=True):  # then the errors of all parts
        assert float(other["val/forces_mae"]) == pytest.approx(row["val_forces_mae"], rel=1e-6)


def test_tensorboard_gets_files_of_its_own(tmp_path):
    if importlib.util.find_spec("tensorboard") is None:
        pytest.skip("no tensorboard")
    (logger,) = make_loggers(["csv", "tensorboard"], tmp_path)
    logger.log_metrics({"val/loss": 1.0}, step=1)
    logger.save()
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_times_are_told_in_words():
    words = {0.4: "0 s", 99.0: "99 s", 600.0: "10 min", 12_000.0: "3 h 20 min"}
    assert {seconds: in_words(seconds) for seconds in words} == words


def test_curve_stands_behind_the_log():
    """Lightning keeps the order of callbacks of one base class."""
    assert issubclass(LiveCurve, Checkpoint) and issubclass(EpochLog, Checkpoint)
