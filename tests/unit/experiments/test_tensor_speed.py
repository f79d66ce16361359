"""Timing of tensor models: one real model from the command line to its numbers, and the page."""

import json
import subprocess
import sys

import numpy as np
import pytest

from kan_md.benchmark.machine import describe_machine
from kan_md.benchmark.structures import quartz
from kan_md.model.checkpoint import load_checkpoint, save_checkpoint
from kan_md.tasks.choose import task_of_checkpoint
from kan_md.tasks.untrained import make_untrained
from kan_md_deploy import deploy
from results.experiments import tensor_speed
from results.experiments.tensor_timing import measure_in_turns, prediction, training_step


def test_quartz_has_bonds_of_the_right_length():
    atoms = quartz()
    assert len(atoms) == 72
    silicon = atoms.symbols == "Si"
    distances = np.sort(atoms.get_all_distances(mic=True)[silicon][:, ~silicon], axis=1)
    # Four bonds of 1.605 and 1.614 Å at room temperature (Levien, Prewitt, Weidner 1980).
    np.testing.assert_allclose(distances[:, :4], [[1.605, 1.605, 1.614, 1.614]] * 24, atol=3e-3)
    assert distances[:, 4].min() > 3.0


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    tiny = {"r_max": 3.0, "triplet_r_max": 2.0, "num_layers": 1, "num_features": 8}
    checkpoint = make_untrained("etgnn", [quartz((1, 1, 1))], seed=2, **tiny)
    return save_checkpoint(checkpoint, tmp_path_factory.mktemp("fresh") / "model.pth")


def test_fresh_tensor_model_carries_frames_of_its_own_tensors(fresh):
    checkpoint = load_checkpoint(fresh)
    assert checkpoint.type_names == ["O", "Si"]
    tensor = checkpoint.reference_frames[0]["tensors"]["bec"].numpy()
    atoms = quartz((1, 1, 1))
    assert tensor.shape == (len(atoms), 9)
    assert abs(tensor).max() > 1e-6
    assert abs(tensor.sum(0)).max() < 1e-10


def test_what_is_timed_is_a_prediction_and_a_step_that_learns(fresh):
    atoms = quartz((1, 1, 1))
    atoms.rattle(0.05, seed=1)
    deployed = deploy(fresh)
    assert prediction(deployed, atoms)()["bec"].shape == (18, 9)
    checkpoint = load_checkpoint(fresh)
    model = checkpoint.build()
    step = training_step(model, task_of_checkpoint(checkpoint).specs, atoms)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step()
    changed = [
        not np.array_equal(old, new.detach())
        for old, new in zip(before, model.parameters(), strict=True)
    ]
    assert all(changed)


def test_command_prints_times(fresh, tmp_path):
    quartz((1, 1, 1)).write(tmp_path / "quartz.xyz")
    arguments = [str(fresh), str(tmp_path / "quartz.xyz"), "--calls", "3"]
    done = subprocess.run(
        [sys.executable, str(tensor_speed.TIMING), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert min(found["ms"][0]) > 0
    assert found["atoms"] == 18


def test_files_take_turns(tmp_path, monkeypatch):
    order = []
    times = measure_in_turns([lambda: order.append("a"), lambda: order.append("b")], 3)
    assert order == ["a", "b"] * (len(order) // 2)
    assert [len(mine) for mine in times] == [3, 3]
    monkeypatch.setattr(
        tensor_speed,
        "run_program",
        lambda *_, **__: json.dumps({"ms": [[1, 2], [4, 4], [2, 6], [2, 2]]}),
    )
    found = tensor_speed.measure_frames("small", ["MLP", "linear"], work=tmp_path, calls=2)
    assert found["MLP"]["plain"][2:] == [1.0, 0.0]
    assert found["linear"]["plain"][::2] == [4.0, 2.5]  # 2/1 and 6/2
    assert found["linear"]["default"] == [2.0, 0.0, 0.5, 0.0]


def test_results_without_their_files_are_measured_again(tmp_path, monkeypatch):
    """A page of another machine or of an older version says nothing of what is in the folder."""
    measured = []
    monkeypatch.setattr(
        tensor_speed, "measure_step", lambda *key, **_: measured.append(key) or {"step": [1.0, 0.1]}
    )
    whole = {name: [2.0, 0.1] for name in tensor_speed.DEPLOYMENTS}
    monkeypatch.setattr(
        tensor_speed, "measure_frames", lambda _, readouts, **__: dict.fromkeys(readouts, whole)
    )
    cases = {"small, MLP": {"step": [9.0, 0.1], "frame": [9.0, 0.1]}}
    for _ in range(2):
        tensor_speed.run_size("small", cases, work=tmp_path, calls=2, keep=lambda _: None)
    assert measured == [("small", readout) for readout in tensor_speed.READOUTS]
    assert cases["small, MLP"] == {"step": [1.0, 0.1], **whole}


def test_page_shows_times_failures_and_trials():
    cases = {
        "small, MLP": {
            "numbers": 42,
            "step": [20.04, 0.5],
            "plain": [7.0, 0.1, 1.0, 0.0],
            "default": [6.0, 0.2, 1.0, 0.0],
            "threads": 1,
        },
        "published, MLP": {"error": "out of memory"},
    }
    stored = {"cases": cases, "calls": 20, "command": "x", "machine": describe_machine()}
    text = tensor_speed.page(stored)
    assert "| MLP | 42 | 20.0 ± 0.5 | 7.0 ± 0.1 | 1.00 ± 0.00 | 6.0 ± 0.2 | 1.00 ± 0.00 |" in text
    assert "out of memory" in text
    assert "no measurements" not in text
    assert "no measurements" in tensor_speed.page(stored | {"calls": 3})
