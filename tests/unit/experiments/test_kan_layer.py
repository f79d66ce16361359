"""Timing of layers: what is timed is training, and the page says how it was done."""

import json

import pytest
import torch

from kan_md.benchmark.machine import describe_machine
from kan_md.kan import KANLayer
from kan_md.ops import function_sums
from results.experiments import kan_layer, layer_timing


@pytest.mark.parametrize(
    ("make", "derivatives"), [("training_step", 1), ("force_training_step", 2)]
)
def test_timed_steps_compute_what_training_does(monkeypatch, make, derivatives):
    layer, x = KANLayer(3, 1, basis="bspline"), torch.randn(5, 3)
    orders = []
    evaluate = function_sums._evaluate
    monkeypatch.setattr(
        function_sums,
        "_evaluate",
        lambda *given: orders.append(given[-1].order) or evaluate(*given),
    )
    getattr(layer_timing, make)(layer, x)()
    assert max(orders) == derivatives


def test_ratios_are_to_the_control_of_the_same_round(monkeypatch):
    clock = iter([0, 1, 1, 3] * layer_timing._WARM_UP + [0, 1, 1, 3, 0, 2, 2, 6])
    monkeypatch.setattr(layer_timing.time, "perf_counter", lambda: next(clock))
    steps = dict.fromkeys([layer_timing.CONTROL, "KAN"], lambda: None)
    found = layer_timing.measure_in_turn(steps, 2)
    assert found["KAN"]["ms"][0] == 3e3
    assert found["KAN"]["ratio"] == [2.0, 0.0]
    assert found[layer_timing.CONTROL]["ratio"] == [1.0, 0.0]


def test_command_writes_a_page_that_says_it_is_a_trial(tmp_path):
    assert kan_layer.main(["--output", str(tmp_path), "--points", "50", "--calls", "2"]) == 0
    stored = json.loads((tmp_path / "kan_layer.json").read_text())
    for step in kan_layer.STEPS:
        assert {"MLP", "KAN bspline, torch"} <= set(stored[step])
        assert all(case["ms"][0] > 0 for case in stored[step].values())
    text = (tmp_path / "kan_layer.md").read_text()
    assert "no measurements" in text
    assert "50 x 64 -> 1" in text


def test_page_shows_times_and_ratios():
    case = {"ms": [9.3, 0.1], "ratio": [1.45, 0.02]}
    cases = {"step": {"KAN bspline, C++": case}, "force_step": {}}
    stored = {"points": 9, "calls": 50, "dtype": "torch.float32", "threads": 1, "command": "x"}
    text = kan_layer.page(stored | cases | {"machine": describe_machine()})
    assert "| KAN bspline, C++ | 9.30 ± 0.10 | 1.45 ± 0.02 |" in text
    assert "no measurements" not in text


def test_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert kan_layer.main(["--output", str(tmp_path / "file")]) == 2
    assert "set --output" in capsys.readouterr().err
