"""Losses, stages and schedules do what their formulas say."""

import numpy as np
import pytest
import torch
from nequip.data import AtomicDataDict

from kan_md.config.schema import ScheduleConfig
from kan_md.data.dataset import WEIGHT_PREFIX
from kan_md.train.budget import rate_factor
from kan_md.train.log import read_log
from kan_md.train.losses import Errors, TargetError
from kan_md.train.metrics import loss_manager, stage_coefficients
from kan_md.train.run import train

ENERGIES = torch.tensor([[1.0], [2.0]], dtype=torch.float64)


@pytest.fixture
def batch():
    """Two structures, of one atom and of three."""
    return {
        AtomicDataDict.TOTAL_ENERGY_KEY: ENERGIES,
        AtomicDataDict.FORCE_KEY: torch.arange(12, dtype=torch.float64).view(4, 3),
        AtomicDataDict.BATCH_KEY: torch.tensor([0, 1, 1, 1]),
        AtomicDataDict.NUM_NODES_KEY: torch.tensor([1, 3]),
        WEIGHT_PREFIX + "forces": torch.tensor([[1.0], [2.0]], dtype=torch.float64),
        WEIGHT_PREFIX + "total_energy": torch.tensor([[3.0], [0.5]], dtype=torch.float64),
    }


def displaced(batch, energy=0.0, force=0.0):
    return {
        **batch,
        AtomicDataDict.TOTAL_ENERGY_KEY: batch[AtomicDataDict.TOTAL_ENERGY_KEY] + energy,
        AtomicDataDict.FORCE_KEY: batch[AtomicDataDict.FORCE_KEY] + force,
    }


@pytest.mark.parametrize(
    ("function", "expected"), [("mse", 0.09), ("mae", 0.3), ("rmse", 0.3), ("huber", 0.025)]
)
def test_functions_of_a_constant_error(batch, function, expected):
    # Huber beyond delta = 0.1: 0.1 * (0.3 - 0.1 / 2) = 0.025.
    error = TargetError("forces", "atom", function=function, delta=0.1)
    assert float(error(displaced(batch, force=0.3), batch)) == pytest.approx(expected)


def test_energy_errors_are_per_atom_and_per_structure(batch):
    pred = displaced(batch, energy=0.6)
    per_atom = TargetError("total_energy", "structure", per_atom=True, function="mae")
    assert float(per_atom(pred, batch)) == pytest.approx((0.6 + 0.2) / 2)
    whole = TargetError("total_energy", "structure", function="mae")
    assert float(whole(pred, batch)) == pytest.approx(0.6)


def test_frame_weights_count_frames_more(batch):
    pred = displaced(batch, force=1.0)
    error = TargetError("forces", "atom", weighted=True)
    assert float(error(pred, batch)) == pytest.approx((1 * 1 + 3 * 2) / 4)
    energies = TargetError("total_energy", "structure", weighted=True)
    assert float(energies(displaced(batch, energy=1.0), batch)) == pytest.approx((3 + 0.5) / 2)


def test_missing_labels_leave_value_and_gradient_finite(batch):
    target = dict(batch)
    target[AtomicDataDict.TOTAL_ENERGY_KEY] = torch.tensor([[float("nan")], [2.0]])
    energy = (ENERGIES + 0.5).requires_grad_()
    error = TargetError("total_energy", "structure")
    loss = error({**batch, AtomicDataDict.TOTAL_ENERGY_KEY: energy}, target)
    loss.backward()
    assert loss.item() == pytest.approx(0.25)
    np.testing.assert_allclose(energy.grad.numpy(), [[0.0], [1.0]])
    target[AtomicDataDict.TOTAL_ENERGY_KEY] = torch.full((2, 1), float("nan"))
    # A term of the loss is nothing then, an error that is shown is no number.
    assert float(TargetError("total_energy", "structure", weighted=True)(batch, target)) == 0.0
    assert np.isnan(float(TargetError("total_energy", "structure")(batch, target)))


def test_predictions_that_are_no_numbers_are_no_error_of_zero(batch):
    broken = displaced(batch, force=float("nan"))
    for function in ("mse", "mae", "rmse", "huber"):
        assert TargetError("forces", "atom", function=function)(broken, batch).isnan()


def test_mean_over_an_epoch_weighs_components_not_batches(batch):
    error = TargetError("forces", "atom", function="mae")
    error(displaced(batch, force=0.1), batch)
    part = {**batch, "forces": batch["forces"][:1]}
    error({**part, "forces": part["forces"] + 0.6}, part)
    assert float(error.compute()) == pytest.approx((12 * 0.1 + 3 * 0.6) / 15)


def test_schedules_begin_and_end_where_they_say():
    for name in ("cosine", "one_cycle", "exponential"):
        schedule = ScheduleConfig(name=name, warmup=0.2, final=0.01)
        assert rate_factor(0.0, schedule) == pytest.approx(0.04)
        assert rate_factor(0.2, schedule) == pytest.approx(1.0)
        assert rate_factor(1.0, schedule) == pytest.approx(0.01)
        falling = [rate_factor(x, schedule) for x in np.linspace(0.2, 1.0, 20)]
        assert falling == sorted(falling, reverse=True)
    constant = ScheduleConfig(name="constant", warmup=0.0)
    assert rate_factor(0.0, constant) == rate_factor(1.0, constant) == 1.0


def test_later_stage_changes_weights_and_rate(tmp_path, make_config):
    config = make_config(
        {
            "training.epochs": 4,
            "training.stages": [
                {"start": 0.5, "loss": {"energy": 1000.0, "forces": 1.0}, "lr": 0.0007}
            ],
        }
    )
    train(config, tmp_path)
    rows = read_log(tmp_path / "log.csv")
    assert rows[1]["lr"] != 0.0007
    assert rows[-1]["lr"] == 0.0007
    for row, (energy, forces, stress) in zip(
        rows, [(1, 1, 1), (1, 1, 1), (1000, 1, 0), (1000, 1, 0)], strict=True
    ):
        total = energy * row["train_loss_energy"] + forces * row["train_loss_forces"]
        total += stress * row["train_loss_stress"]
        assert row["train_loss"] == pytest.approx(total / (energy + forces + stress), rel=1e-6)
        # The best model is chosen by the last stage's loss throughout.
        score = (1000 * row["val_loss_energy"] + row["val_loss_forces"]) / 1001
        assert row["val_loss"] == pytest.approx(score, rel=1e-6)


def test_terms_of_every_stage_are_there_from_the_start(make_config):
    config = make_config(
        {
            "training.loss": {"energy": 0.0, "forces": 1.0},
            "training.stages": [{"loss": {"energy": 2.0, "forces": 1.0}}],
        }
    )
    names = [
        term["name"]
        for term in loss_manager(config.training.loss, config, config.task.targets)["metrics"]
    ]
    assert names == ["loss_energy", "loss_forces"]
    coefficients = stage_coefficients(config.training.stages[0].loss, config)
    assert coefficients == {"loss_energy": 2.0, "loss_forces": 1.0}


def test_errors_that_several_metrics_share_are_those_of_each_alone(batch):
    pred, batch = displaced(batch, energy=0.6, force=0.3), dict(batch)
    batch[AtomicDataDict.FORCE_KEY] = batch[AtomicDataDict.FORCE_KEY].clone()
    batch[AtomicDataDict.FORCE_KEY][1, 2] = torch.nan
    makers = [
        lambda: TargetError("total_energy", "structure", per_atom=True, weighted=True),
        lambda: TargetError("total_energy", "structure", per_atom=True, function="mae"),
        lambda: TargetError("total_energy", "structure", function="rmse"),
        lambda: TargetError("forces", "atom", function="huber", weighted=True),
        lambda: TargetError("forces", "atom", function="mae"),
    ]
    for times in (1, 3):
        together, alone = [make() for make in makers], [make() for make in makers]
        for _ in range(times):
            errors = Errors(pred, batch)
            for one in together:
                one.add(*one.sums(errors))
            for one in alone:
                one.update(pred, batch)
        found, expected = ([float(one.compute()) for one in each] for each in (together, alone))
        assert found == pytest.approx(expected, rel=1e-14)
        assert found[-1] == pytest.approx(0.3)
    together[0].reset()
    assert float(together[0].total) == 0.0
    together[0].add(*together[0].sums(errors))
    assert float(together[0].compute()) == pytest.approx(expected[0])
