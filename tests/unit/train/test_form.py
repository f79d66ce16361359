"""Training in the fast form: the same numbers, said and recorded."""

import json

import pytest
from rich.console import Console

from kan_md.errors import KanMdError
from kan_md.train.log import read_log
from kan_md.train.run import train


def test_losses_of_a_training_are_those_of_upstreams_form(make_config, tmp_path):
    logs = []
    for wanted in ("fast", "upstream"):
        changes = {
            "training.form": wanted,
            "training.epochs": 4,
            "readout.fit_grid": {"steps": [1]},
        }
        train(make_config(changes), tmp_path / wanted)
        logs.append(read_log(tmp_path / wanted / "log.csv"))
    assert len(logs[0]) == 4
    names = [name for name in logs[0][0] if "loss" in name or "mae" in name or "rmse" in name]
    assert names
    for fast, upstream in zip(*logs, strict=True):
        for name in names:
            assert fast[name] == pytest.approx(upstream[name], rel=1e-8), name


def test_form_is_told_and_recorded(make_config, tmp_path):
    console = Console(record=True, width=200)
    train(make_config({"training.epochs": 1}), tmp_path / "run", console=console)
    form = json.loads((tmp_path / "run" / "metrics.json").read_text())["form"]
    assert form.startswith(("fast: products of weights", "fast: one operator"))
    assert f"form {form}" in console.export_text()


def test_form_that_is_not_there_is_refused_before_anything_is_written(make_config, tmp_path):
    attention = {"interaction_cls": "RealAgnosticAttResidualInteractionBlock"}
    model = {"backbone": "mace", "r_max": 3.2, "hidden_irreps": "4x0e", "max_ell": 1, **attention}
    config = make_config({"training.form": "fast", "model": model})
    with pytest.raises(KanMdError, match=r"no fast form of this model, got .* training\.form out"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
