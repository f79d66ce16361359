"""The page on Born charges: what it trains is allowed, what it says follows from its cases."""

import json

import numpy as np
import pytest

from kan_md.benchmark.machine import describe_machine
from kan_md.config import parse_config
from kan_md.data.charge_transfer import make_charge_transfer
from kan_md.data.write import write_frames
from results.experiments import born_charges


@pytest.mark.parametrize("crystal", born_charges.CRYSTALS, ids=lambda crystal: crystal.name)
@pytest.mark.parametrize("readout", born_charges.READOUTS)
def test_every_case_is_a_valid_configuration(crystal, readout, tmp_path):
    config = parse_config(born_charges.configuration(crystal, readout, 3, tmp_path))
    assert config.training.seed == 3
    assert config.data.split.method == "block"
    assert config.targets[0].name == "bec"


def test_baseline_is_the_mean_tensor_of_the_training_frames(tmp_path):
    frames = make_charge_transfer(10, 0)
    crystal = born_charges.Crystal(name="x", file="x.xyz", blocks=1, epochs=1, model={})
    write_frames(frames, tmp_path / crystal.file)
    errors = []
    for symbol in set(frames[0].symbols):
        chosen = [atoms.arrays["bec"][atoms.symbols == symbol] for atoms in frames]
        mean = np.mean(np.concatenate(chosen[:6]), axis=0)
        errors.append(np.abs(np.concatenate(chosen[8:]) - mean))
    expected = np.concatenate(errors).mean()
    assert born_charges.baseline(crystal, tmp_path) == pytest.approx(expected, rel=1e-6)


def test_deployed_files_are_found_in_the_work_folder(tmp_path, monkeypatch):
    """Results name no path of the machine; what is timed follows from the case."""
    stored = stored_cases()
    for crystal in born_charges.CRYSTALS:
        (tmp_path / crystal.file).touch()
    asked = []

    def run_program(module, *files, what):
        *deployed, _ = files
        asked.extend(file.relative_to(tmp_path) for file in deployed)
        return json.dumps({"ms": [[1.0, 3.0, 2.0] for _ in deployed]})

    monkeypatch.setattr(born_charges, "run_program", run_program)
    born_charges.time_deployed(stored, data=tmp_path, work=tmp_path)
    assert len(asked) == 5  # one seed of each, without the case that failed
    assert all(file.name == "model.deployed.pth" for file in asked)
    assert any(file.parent.name.startswith("BaTiO3--KAN-B-spline--seed-1-") for file in asked)
    assert str(tmp_path) not in json.dumps(stored)
    born_charges.time_deployed(stored, data=tmp_path, work=tmp_path)
    assert len(asked) == 5


def stored_cases():
    cases = {}
    for crystal in born_charges.CRYSTALS:
        for number, readout in enumerate(born_charges.READOUTS):
            for seed in born_charges.SEEDS:
                error = {"bec_mae": 0.01 * (number + 1) + 0.001 * seed}
                cases[f"{crystal.name}, {readout}, seed {seed}"] = {
                    "errors": {"train": error, "val": error, "test": error},
                    "parameters": 1000,
                    "seconds": 60.0,
                    "ms_per_training_step": 50.0,
                }
    cases["SiO2, MLP, seed 1"] = {"error": "out of memory"}
    return {
        "cases": cases,
        "baseline": {"SiO2": 0.3, "BaTiO3": 0.4},
        "machine": describe_machine(),
        "command": "python -m results.experiments.born_charges",
        "jobs": 2,
    }


def test_page_gives_mean_and_spread_over_seeds_and_names_failures(tmp_path):
    stored = stored_cases()
    text = born_charges.page(stored)
    assert "0.0220 ± 0.0010" in text  # Gaussian, seeds 1 to 3
    assert f"| {0.3 / 0.022:.1f} |" in text
    assert "Not there: SiO2, MLP, seed 1: out of memory" in text
    born_charges.save_figure(stored, tmp_path / "etgnn.png")
    assert (tmp_path / "etgnn.png").stat().st_size > 1000


def test_missing_data_is_named(tmp_path, capsys):
    status = born_charges.STUDY.main(["--data", str(tmp_path), "--output", str(tmp_path / "out")])
    assert status == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "allowed: one that holds SiO2_bec.xyz, BaTiO3_bec.xyz; set --data or KAN_MD_DATA" in said
    assert not (tmp_path / "out").exists()
