"""Timing of training steps: both forms are timed on one model, and the page says how."""

import json
import re

import pytest
import torch

from kan_md.benchmark.machine import describe_machine
from kan_md.errors import KanMdError
from kan_md.forms.choice import Form
from results.experiments import (
    readout_steps,
    run_trainer,
    step_timing,
    training_epochs,
    training_speed,
)

SMALL = "small Allegro, MLP"


def test_timed_step_follows_the_gradient_in_both_forms():
    batch = step_timing.make_batch(4.5, 1)
    moved = []
    for form in step_timing.FORMS:
        model = step_timing.make_model(SMALL)
        before = [p.detach().clone() for p in model.parameters()]
        step_timing.training_step(Form(model, form), model, batch, form=form)()
        assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        moved.append([p.grad for p in model.parameters()])
    for fast, upstream in zip(*moved, strict=True):
        torch.testing.assert_close(
            fast, upstream, rtol=1e-3, atol=1e-4 * float(upstream.abs().max())
        )


def test_command_measures_what_is_missing_and_says_it_is_a_trial(tmp_path):
    trial = ["--output", str(tmp_path), "--calls", "1", "--cells", "1", "--model", SMALL]
    assert training_speed.main(trial) == 0
    stored = json.loads((tmp_path / "training.json").read_text())
    case = stored["cases"][SMALL]
    assert all(case["ms"][form][0] > 0 for form in step_timing.FORMS)
    assert 0 < case["peak"]["fast"] < case["peak"]["upstream"]
    assert "no measurements" in (tmp_path / "training.md").read_text()
    assert training_speed.main(trial) == 0
    assert json.loads((tmp_path / "training.json").read_text())["cases"][SMALL] == case


def test_page_shows_times_ratio_and_memory():
    case = {
        "atoms": 192,
        "edges": 8450,
        "ms": {"fast": [182.4, 3.0], "upstream": [2262.0, 20.0]},
        "ratio": [0.0806, 0.001],
        "peak": {"fast": 147.0, "upstream": 1645.0},
        "limit": 37.4,
        "kernels": True,
    }
    stored = {"calls": 10, "threads": 1, "command": "x", "machine": describe_machine()}
    text = training_speed.page(stored | {"cases": {"README": case}})
    assert "| README | 8,450 | 182 ± 3 | 2262 ± 20 | 0.081 ± 0.001 | 147 | 1645 | 37 |" in text
    assert "192 atoms" in text
    assert "no measurements" not in text


def test_readouts_take_turns_and_are_compared_with_the_small_mlp():
    found = readout_steps.measure("one-layer MACE", 1, 1)
    assert set(found) == {readout_steps.CONTROL, *readout_steps.KANS}
    assert found[readout_steps.CONTROL]["ratio"] == [1.0, 0.0]
    for entry in found.values():
        expected = entry["ms"][0] / found[readout_steps.CONTROL]["ms"][0]
        assert entry["ratio"][0] == pytest.approx(expected)


def test_page_shows_what_output_blocks_cost():
    allegro = {
        "MLP": {"ms": [20.0, 0.1], "ratio": [1.0, 0.0]},
        "MLP of 64": {"ms": [25.0, 0.1], "ratio": [1.25, 0.01]},
    }
    stored = {"calls": 10, "threads": 1, "command": "x", "machine": describe_machine(), "cases": {}}
    readouts = {"Allegro": allegro, "MACE": {"MLP": {"ms": [80.0, 1.0], "ratio": [1.0, 0.0]}}}
    lines = training_speed.page(stored | {"readouts": readouts}).splitlines()
    assert "| MLP | 20.0 ms, 1.00 ± 0.00 | 80.0 ms, 1.00 ± 0.00 |" in lines
    assert "| MLP of 64 | 25.0 ms, 1.25 ± 0.01 | – |" in lines


def test_processes_share_batches_and_the_page_has_their_ratio(tmp_path, monkeypatch):
    """Stands in for the program: an epoch of a second per ten steps and process."""

    def run_program(runner, program, settings, work, *, what, threads):
        training = json.loads(settings.read_text())["training"]
        assert threads == training["threads"] == 1
        steps = training_epochs.TRAIN / training["batch_size"]
        seconds = steps / 10 / training["devices"]
        return json.dumps({"epochs": [seconds] * 3, "cpu": 1.0, "peak": 1.0})

    monkeypatch.setattr(training_epochs, "run_program", run_program)
    out = ["--output", str(tmp_path), "--processes", "small Allegro"]
    assert training_speed.main(out) == 0
    lines = (tmp_path / "training.md").read_text().splitlines()
    assert "| small Allegro | 2 | 2.00 ± 0.00 | 1.00 ± 0.00 | 2.00 |" in lines
    assert "| small Allegro | 8 | 0.50 ± 0.00 | 0.25 ± 0.00 | 2.00 |" in lines


def test_page_begins_with_the_papers_training_and_draws_the_programs_ratios(tmp_path):
    entries = {
        "Allegro, nequip-train": {"seconds": [36.0, 0.5], "cpu": 120.0, "peak": 1800.0},
        "Allegro, kan-md, Gaussian KAN": {"seconds": [1.0, 0.1], "cpu": 8.0, "peak": 800.0},
    }
    stored = {
        "calls": 10,
        "threads": 1,
        "command": "x",
        "machine": describe_machine(),
        "cases": {},
        "tables": {"Allegro": {"data": "HfO2", "epochs": entries}},
    }
    lines = training_speed.page(stored).splitlines()
    per_epoch = 9000 / training_epochs.TRAIN / 60
    assert f"kan-md {per_epoch:.1f} minutes" in lines[2]
    assert f"nequip-train {36 * per_epoch / 60:.1f} hours" in lines[2]
    assert "| Allegro, kan-md, Gaussian KAN | 1.00 ± 0.10 | 36.0 | 8 | 800 |" in lines
    training_speed.draw(stored["tables"], tmp_path / "training.png")
    assert (tmp_path / "training.png").stat().st_size > 0


@pytest.mark.parametrize(
    "make_command", [run_trainer.kan_md, run_trainer.nequip_train, run_trainer.mace_run_train]
)
def test_the_trainers_of_a_table_train_on_the_same_frames_for_the_same_epochs(
    make_command, tmp_path
):
    programs = {name.replace("-", "_"): name for name in run_trainer.PROGRAMS}
    program = programs[make_command.__name__]
    (trainer, *_) = (
        trainer
        for table in training_epochs.TABLES.values()
        for trainer in table
        if trainer.program == program
    )
    command, _ = make_command(trainer.settings(7), tmp_path)
    config = tmp_path / "config.yaml"
    text = " ".join(command) + (config.read_text() if config.exists() else "")
    assert "../train.xyz" in text and "../val.xyz" in text
    assert re.search(r"epochs\W+7", text)


def test_epochs_are_clocked_between_what_the_programs_log(tmp_path):
    log = "\n".join(
        f"2026-01-01 00:00:{second} INFO: {what}: head: Default, loss=1"
        for second, what in (("01.000", "Initial"), ("09.000", "Epoch 0"), ("10.250", "Epoch 1"))
    )
    assert run_trainer.mace_run_train_epochs(tmp_path, log) == [1.25]
    (tmp_path / run_trainer.CLOCK).write_text("[0.0, 5.0, 7.5]")
    assert run_trainer.nequip_train_epochs(tmp_path, "") == [2.5]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.csv").write_text("epoch,seconds\n0,4.0\n1,5.5\n")
    assert run_trainer.kan_md_epochs(tmp_path, "") == [1.5]


def test_a_trainer_that_fails_says_so(tmp_path):
    (trainer, *_) = (t for t in training_epochs.TABLES["Allegro"] if t.program == "kan-md")
    settings = trainer.settings(1) | {"data": {"train": "nowhere.xyz"}}
    with pytest.raises(KanMdError, match=r"kan-md failed: .*nowhere\.xyz"):
        run_trainer.run("kan-md", settings, tmp_path / "run")


def test_labels_of_the_self_made_frames_are_those_of_one_potential():
    atoms = training_epochs.rattled_fluorite(3)
    labels = atoms.calc.results
    moved, step = atoms.copy(), 1e-4
    energies = []
    for sign in (1, -1):
        moved.positions = atoms.positions
        moved.positions[5, 1] += sign * step
        moved.calc = training_epochs.pair_potential()
        energies.append(moved.get_potential_energy())
    assert (energies[1] - energies[0]) / (2 * step) == pytest.approx(
        labels["forces"][5, 1], abs=1e-6
    )
