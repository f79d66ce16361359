"""Timing of training steps: both forms are timed on one model, and the page says how."""

import json

import torch

from kan_md.benchmark.machine import describe_machine
from kan_md.forms.choice import Form
from results.experiments import step_timing, training_speed

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
        "kernels": True,
    }
    stored = {"calls": 10, "threads": 1, "command": "x", "machine": describe_machine()}
    text = training_speed.page(stored | {"cases": {"README": case}})
    assert "| README | 8,450 | 182 ± 3 | 2262 ± 20 | 0.081 ± 0.001 | 147 | 1645 |" in text
    assert "192 atoms" in text
    assert "no measurements" not in text
