"""``training.refit``: the best epoch's readout is solved exactly, and everything follows it."""

import io
import json

import pytest
from rich.console import Console

from kan_md.config import parse_config
from kan_md.errors import KanMdError
from kan_md.evaluate.evaluation import evaluate_file
from kan_md.model.checkpoint import load_checkpoint
from kan_md.solve.memory import MEMORY_KEY
from kan_md.solve.uncertainty import Uncertainty
from kan_md.train.preparation import prepare_data
from kan_md.train.run import train

LOCAL = {
    "model": {
        "backbone": "mace",
        "r_max": 3.2,
        "dtype": "float64",
        "num_layers": 1,
        "l_max": 1,
        "num_scalar_features": 4,
        "correlation": 2,
        "radial_MLP": [8],
    },
    "training.epochs": 2,
}


def test_the_validation_loss_falls_and_tables_and_file_are_of_the_new_readout(
    make_config, tmp_path
):
    plain = make_config(LOCAL)
    solved = make_config({**LOCAL, "training.refit": True})
    console = Console(record=True, width=200, file=io.StringIO())
    paths = [
        train(plain, tmp_path / "plain"),
        train(solved, tmp_path / "solved", console=console),
    ]
    validation = prepare_data(solved).frames["val"]
    losses = []
    for path in paths:
        errors = evaluate_file(path, validation).errors
        told = json.loads((path.parent / "metrics.json").read_text())["errors"]["val"]
        assert told["forces_rmse"] == pytest.approx(errors["forces_rmse"], rel=1e-6)
        losses.append(sum(errors[f"{name}_rmse"] ** 2 for name in ("energy", "forces", "stress")))
    assert losses[1] < 0.95 * losses[0]
    checkpoint = load_checkpoint(paths[1])
    assert checkpoint.statistics[MEMORY_KEY]["structures"] == 8
    assert Uncertainty(checkpoint)(validation[0])["energy_std"] > 0.0  # sums of these very weights
    assert MEMORY_KEY not in load_checkpoint(paths[0]).statistics
    assert "readout solved exactly" in console.export_text()
    assert "exact readout" in json.loads((paths[1].parent / "metrics.json").read_text())["parts"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.devices": 2}, "training.refit, got 2 processes"),
        (
            {"model": {"backbone": "etgnn", "r_max": 3.0}, "targets": [{"name": "bec"}]},
            "training.refit, got backbone etgnn; allowed: potentials",
        ),
    ],
)
def test_where_it_cannot_be_it_is_refused(make_config, changes, message):
    with pytest.raises(KanMdError, match=message):
        make_config({**changes, "training.refit": True})


def test_off_by_default(make_config):
    assert parse_config(make_config().model_dump()).training.refit is False
