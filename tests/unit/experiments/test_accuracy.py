"""The page on errors by output block: its cases are allowed, its numbers are those of the cases."""

import pytest

from kan_md.benchmark.machine import describe_machine
from kan_md.config import parse_config
from results.experiments import accuracy


@pytest.mark.parametrize("readout", accuracy.READOUTS)
def test_every_case_is_a_valid_configuration(readout, tmp_path):
    config = parse_config(accuracy.configuration(readout, 2, tmp_path))
    assert config.training.seed == 2
    assert config.training.epochs == accuracy.EPOCHS


def stored_cases():
    cases = {}
    for number, readout in enumerate(accuracy.READOUTS):
        for seed in accuracy.SEEDS:
            errors = {"energy_mae": 1e-3 * (number + 1), "forces_mae": 1e-2 * (number + seed)}
            cases[f"{readout}, seed {seed}"] = {
                "errors": {"train": errors, "test": errors},
                "parameters": 1000,
                "seconds": 60.0,
            }
    cases["linear, seed 3"] = {"error": "out of memory"}
    return {"cases": cases, "machine": describe_machine(), "command": "x", "jobs": 2}


def test_page_gives_mean_and_spread_over_seeds_and_names_failures(tmp_path):
    stored = stored_cases()
    text = accuracy.page(stored)
    assert "| MLP | 3 of 3 | 1000 | 2.00 ± 0.00 | 2.00 ± 0.00 | 30.00 ± 10.00 |" in text
    assert "| linear | 2 of 3 |" in text
    assert "Not there: linear, seed 3: out of memory" in text
    accuracy.save_figure(stored, tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").stat().st_size > 1000


def test_missing_data_is_named(tmp_path, capsys):
    status = accuracy.STUDY.main(["--data", str(tmp_path), "--output", str(tmp_path / "out")])
    assert status == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "allowed: one that holds Ag_pbe.xyz; set --data or KAN_MD_DATA" in said
    assert not (tmp_path / "out").exists()
