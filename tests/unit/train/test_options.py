"""Averaged weights, clipping, fresh readouts, precision: each by what it should do."""

import pytest
import torch

from kan_md.backbones.transfer import is_readout
from kan_md.model.checkpoint import load_checkpoint
from kan_md.train import run as run_module
from kan_md.train.log import EpochLog
from kan_md.train.run import train


class WeightLog(EpochLog):
    """Keeps the weights before the first step and after each."""

    seen: list[dict] = []  # noqa: RUF012 - emptied by the fixture

    def _keep(self, module):
        self.seen.append({n: p.detach().clone() for n, p in module.model.named_parameters()})

    def on_train_start(self, trainer, pl_module):
        super().on_train_start(trainer, pl_module)
        self._keep(pl_module)

    def on_train_batch_end(self, trainer, pl_module, *arguments):
        self._keep(pl_module)


@pytest.fixture
def steps(monkeypatch):
    WeightLog.seen.clear()
    monkeypatch.setattr(run_module, "EpochLog", WeightLog)
    return WeightLog.seen


def final_weights(folder):
    """Of model.pth, with the names of the training module."""
    state = load_checkpoint(folder / "model.pth").state_dict
    return {name.removeprefix("sole_model."): weight for name, weight in state.items()}


def match(name, weights):
    (found,) = [w for other, w in weights.items() if name.endswith(other) or other.endswith(name)]
    return found


def test_model_file_holds_the_exponential_average(tmp_path, make_config, steps):
    """ema <- d ema + (1 - d) w with d = min(decay, (1 + n) / (10 + n)), n counting updates."""
    train(make_config({"training.epochs": 1, "training.ema": 0.15}), tmp_path)
    assert len(steps) == 5  # start and four steps of two structures
    final = final_weights(tmp_path)
    changed = 0
    for name in steps[0]:
        average = steps[1][name]
        for n, weights in enumerate(steps[2:], 1):
            decay = min(0.15, (1 + n) / (10 + n))
            average = decay * average + (1 - decay) * weights[name]
        # Upstream counts in float32.
        torch.testing.assert_close(match(name, final), average, rtol=0, atol=1e-6)
        changed += not torch.allclose(average, steps[-1][name], rtol=0, atol=1e-5)
    assert changed


def test_without_average_the_last_weights_are_kept(tmp_path, make_config, steps):
    train(make_config({"training.epochs": 1, "training.ema": None}), tmp_path)
    final = final_weights(tmp_path)
    assert all(torch.equal(match(name, final), weight) for name, weight in steps[-1].items())


def test_clipped_step_has_the_length_of_the_clip(tmp_path, make_config, steps):
    """Plain gradient descent moves by rate x gradient, whose norm is clipped."""
    lengths = []
    for index, clip in enumerate((None, 1e-3)):
        steps.clear()
        changes = {
            "training.epochs": 1,
            "training.ema": None,
            "training.optimizer": {"name": "sgd", "lr": 1e-3},
            "training.schedule": {"name": "constant", "warmup": 0.0},
            "training.gradient_clip": clip,
        }
        train(make_config(changes), tmp_path / str(index))
        first, second = steps[0], steps[1]
        lengths.append(
            sum(float((second[n] - first[n]).square().sum()) for n in first) ** 0.5 / 1e-3
        )
    assert lengths[0] > 1e-2  # else clipping would have nothing to do
    assert lengths[1] == pytest.approx(1e-3, rel=1e-3)


def test_fresh_readout_leaves_the_old_one_behind(tmp_path, make_config):
    train(make_config({"training.epochs": 1}), tmp_path / "old")
    still = {"training.epochs": 1, "training.optimizer": {"name": "sgd", "lr": 1e-30}}
    transfer = {"training.init_from": str(tmp_path / "old" / "model.pth")}
    for name, changes in (("fresh", {"training.fresh_readout": True}), ("kept", {})):
        config = make_config({**still, **transfer, **changes, "training.seed": 5})
        train(config, tmp_path / name)
    train(make_config({**still, "training.seed": 5}), tmp_path / "seed")
    old, fresh, kept, seed = (
        load_checkpoint(tmp_path / name / "model.pth").state_dict
        for name in ("old", "fresh", "kept", "seed")
    )
    readout = [n for n in old if is_readout(n, "allegro") and old[n].is_floating_point()]
    assert any(not torch.equal(old[n], seed[n]) for n in readout)
    for name in old:
        torch.testing.assert_close(kept[name], old[name], rtol=0, atol=0, msg=name)
        expected = seed if name in readout else old
        torch.testing.assert_close(fresh[name], expected[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_are_trained_in_the_dtype_that_is_asked_for(tmp_path, make_config, dtype):
    train(make_config({"training.epochs": 1, "model.dtype": dtype}), tmp_path)
    checkpoint = load_checkpoint(tmp_path / "model.pth")
    assert checkpoint.dtype == dtype
    assert {p.dtype for p in checkpoint.build().parameters()} == {getattr(torch, dtype)}
