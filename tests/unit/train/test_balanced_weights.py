"""Balanced weights count labels by how far they vary; shares of the loss are told."""

import io
import re

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console

from kan_md.config import parse_config
from kan_md.config.schema import LossConfig
from kan_md.data.dataset import FramesDataset, make_loader
from kan_md.data.statistics import types_of
from kan_md.model.checkpoint import load_checkpoint
from kan_md.tasks.targets import POTENTIAL_TARGETS, STRESS
from kan_md.train.balanced_weights import SHARES, SMALLEST, balanced_weights, label_spreads
from kan_md.train.log import read_log
from kan_md.train.loss_shares import warnings_of
from kan_md.train.losses import TargetError
from kan_md.train.preparation import prepare_data
from kan_md.train.run import train

R_MAX = 3.0


def structures(number: int = 40, *, length: float = 1.0, energy: float = 1.0) -> list[Atoms]:
    """Copper with labels of normal random numbers, in units of ``length`` Å and ``energy`` eV."""
    rng = np.random.default_rng(4)
    frames = []
    for _ in range(number):
        places = np.array([[0, 0, 0], [2, 2, 0], [2, 0, 2]]) + rng.normal(0.0, 0.1, (3, 3))
        atoms = Atoms("Cu3", places * length, cell=[4 * length] * 3, pbc=True)
        symmetric = rng.normal(0.0, 0.05, (3, 3))
        stress = (symmetric + symmetric.T + 0.3 * np.eye(3)) * energy / length**3
        forces = rng.normal(0.0, 1.5, (3, 3)) * energy / length
        atoms.calc = SinglePointCalculator(
            atoms, energy=3 * energy * rng.normal(-4.0, 0.4), forces=forces, stress=stress
        )
        frames.append(atoms)
    return frames


def dataset(frames: list[Atoms], r_max: float = R_MAX) -> FramesDataset:
    targets = [t for t in POTENTIAL_TARGETS if any(t.label(a) is not None for a in frames)]
    return FramesDataset(frames, r_max, type_names=types_of(frames), targets=targets)


def weights(frames: list[Atoms], loss: LossConfig | None = None, r_max: float = R_MAX) -> dict:
    found = balanced_weights(loss or LossConfig(), frames, dataset(frames, r_max))
    return {name: getattr(found, name) for name in SHARES}


def without(frames: list[Atoms], *names: str) -> list[Atoms]:
    for atoms in frames:
        for name in names:
            atoms.calc.results.pop(name)
    return frames


def test_a_model_of_means_has_the_chosen_shares():
    frames = structures()
    found, data = weights(frames), dataset(frames)
    (labels,) = make_loader(data, len(frames))
    pressure = labels["stress"].diagonal(dim1=1, dim2=2).mean()
    means = {
        "total_energy": labels["total_energy"].mean() + 0 * labels["total_energy"],
        "forces": 0 * labels["forces"],
        "stress": pressure * torch.eye(3) + 0 * labels["stress"],
    }
    terms = {}
    for target in POTENTIAL_TARGETS:
        error = TargetError(target.field, target.per, per_atom=target.extensive)
        error.update(means, labels)
        terms[target.name] = found[target.name] * float(error.compute())
    for name, share in SHARES.items():
        assert terms[name] / terms["forces"] == pytest.approx(share, rel=0.01)


def test_shares_depend_neither_on_units_nor_on_the_size_of_structures():
    base = weights(structures())
    for length, energy in ((0.529, 27.2), (1.7, 0.1)):
        other = weights(structures(length=length, energy=energy), r_max=R_MAX * length)
        # Weights are per squared unit: E² against (E/L)² and (E/L³)².
        assert other["energy"] * length**2 == pytest.approx(base["energy"], rel=0.01)
        assert other["stress"] / length**4 == pytest.approx(base["stress"], rel=0.01)
    doubled = []
    for atoms in structures():
        big = atoms.repeat((2, 1, 1))
        old = atoms.calc.results
        big.calc = SinglePointCalculator(
            big,
            energy=2 * old["energy"],
            forces=np.tile(old["forces"], (2, 1)),
            stress=old["stress"],
        )
        doubled.append(big)
    assert weights(doubled) == base


def test_a_structure_far_from_all_others_changes_nothing():
    frames = structures()
    before = label_spreads(frames, dataset(frames))
    wild = frames[0].copy()
    results = {name: 1000.0 * value for name, value in frames[0].calc.results.items()}
    wild.calc = SinglePointCalculator(wild, **results)
    after = label_spreads([*frames, wild], dataset([*frames, wild]))
    assert after == pytest.approx(before, rel=0.05)


def test_labels_that_hardly_vary_do_not_take_over():
    frames = structures()
    for atoms in frames:
        atoms.calc.results |= {"energy": -12.0, "stress": np.eye(3)}
    found = weights(frames)
    assert found["energy"] == pytest.approx(SHARES["energy"] / SMALLEST["energy"] ** 2)
    assert found["stress"] == pytest.approx(SHARES["stress"] / SMALLEST["stress"] ** 2)


def test_absent_labels_have_no_weight():
    assert weights(without(structures(), "stress"))["stress"] == 0.0
    only = weights(without(structures(), "stress", "forces"))
    assert only == {"energy": 1.0, "forces": 0.0, "stress": 0.0}
    left_out = weights(structures(), LossConfig().model_copy(update={"energy": 0.0}))
    assert left_out["energy"] == 0.0 and left_out["stress"] == weights(structures())["stress"]


@pytest.mark.parametrize("function", ["mae", "huber"])
def test_weights_follow_the_function_of_the_errors(function):
    frames = structures()
    spreads = label_spreads(frames, dataset(frames))
    found = weights(frames, LossConfig(function=function, delta=0.2))

    def cost(size: float) -> float:
        if function == "mae":
            return size
        return size**2 / 2 if size < 0.2 else 0.2 * (size - 0.1)

    for name, share in SHARES.items():
        expected = share * cost(spreads["forces"]) / cost(spreads[name])
        assert found[name] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ({"energy": 10}, (10.0, 1.0, 0.0)),
        ({"energy": 1, "forces": 1, "stress": 0.1}, (1.0, 1.0, 0.1)),
        ({"stress": 5}, (1.0, 1.0, 5.0)),
    ],
)
def test_numbers_mean_what_they_always_meant(small, alloy_file, loss, expected):
    small["data"]["train"], small["training"]["loss"] = str(alloy_file), loss
    used = prepare_data(parse_config(small)).config.training.loss
    assert (used.energy, used.forces, used.stress) == expected


@pytest.mark.parametrize("loss", [None, "balanced", {}, {"energy": "balanced"}])
def test_default_is_balanced_and_said(small, alloy_file, loss):
    small["data"]["train"] = str(alloy_file)
    del small["training"]["loss"]
    if loss is not None:
        small["training"]["loss"] = loss
    small["training"]["stages"] = [{"start": 0.5, "loss": {"energy": 100.0}}]
    data = prepare_data(parse_config(small))
    used = data.config.training.loss
    assert used.forces == 1.0 and used.energy > 0.0 and used.stress > 0.0
    assert data.config.training.stages[0].loss.energy == 100.0
    said = f"energy {used.energy:g}, forces 1, stress {used.stress:g} (balanced)"
    assert ("loss", said) in data.notes


def test_labels_without_a_weight_are_told(small, alloy_file):
    small["data"]["train"], small["training"]["loss"] = str(alloy_file), {"energy": 1.0}
    (text,) = [
        text for heading, text in prepare_data(parse_config(small)).notes if "loss" in heading
    ]
    assert text.startswith("labels of stress without a weight are not learned; training.loss: bal")


def test_balanced_run_keeps_its_numbers_and_goes_on(small, alloy_file, tmp_path):
    small["data"]["train"] = str(alloy_file)
    small["training"] |= {"loss": "balanced", "epochs": 1}
    train(parse_config(small), tmp_path)
    first = load_checkpoint(tmp_path / "model.pth").config["training"]["loss"]
    assert first["forces"] == 1.0 and isinstance(first["stress"], float)
    # Read again, the kept file is balanced again, also on other data.
    kept = parse_config(yaml.safe_load((tmp_path / "config.yaml").read_text()))
    assert kept.training.loss.is_balanced
    small["training"]["epochs"] = 2
    said = io.StringIO()
    train(parse_config(small), tmp_path, resume=True, console=Console(file=said))
    assert "changed: training.epochs" in said.getvalue()
    assert "training.loss" not in said.getvalue()
    assert load_checkpoint(tmp_path / "model.pth").config["training"]["loss"] == first


def test_negligible_term_is_named_with_a_weight_that_makes_it_count(make_config, tmp_path):
    loss = {"energy": 1.0, "forces": 2.0, "stress": 1e-3}
    said = io.StringIO()
    config = make_config({"training.loss": loss, "training.epochs": 2})
    train(config, tmp_path, console=Console(file=said, width=300))
    row = read_log(tmp_path / "log.csv")[0]
    terms = {name: weight * row[f"train_loss_{name}"] for name, weight in loss.items()}
    share = 100 * terms["stress"] / sum(terms.values())
    lines = [line for line in said.getvalue().splitlines() if "stress is" in line]
    assert len(lines) == 1  # of the first epoch alone
    assert f"stress is {share:.2g} % of the loss" in lines[0]
    weight = float(re.search(r"training.loss.stress: (\S+) beside forces: 1", lines[0])[1])
    others = terms["energy"] / 2 + terms["forces"] / 2  # with forces: 1
    assert weight * row["train_loss_stress"] == pytest.approx(others / 9, rel=0.06)
    assert said.getvalue().count("loss at first: energy") == 1
    assert said.getvalue().count("loss in epoch 1: energy") == 1


def test_terms_that_count_are_not_warned_of():
    weights = {"energy": 0.5, "forces": 0.5}
    assert not warnings_of({"energy": 0.002, "forces": 1.0}, weights, "{}")
    (line,) = warnings_of({"energy": 1e-5, "forces": 1.0}, weights, "training.loss.{}")
    assert "energy is 0.001 % of the loss" in line and "training.loss.energy: 1.1e+04" in line
    assert not warnings_of({"energy": 0.0, "forces": 1.0}, weights, "{}")  # nothing was labelled
    assert not warnings_of({"energy": float("nan"), "forces": 1.0}, weights, "{}")


def test_stress_label_is_what_the_spread_is_of():
    frames = structures(3)
    values = np.concatenate([STRESS.label(atoms).ravel() for atoms in frames])
    pressure = np.mean([np.trace(STRESS.label(atoms)[0]) / 3 for atoms in frames])
    expected = np.sqrt(np.mean((values - pressure * np.tile(np.eye(3).ravel(), 3)) ** 2))
    assert label_spreads(frames, dataset(frames))["stress"] == pytest.approx(expected)
