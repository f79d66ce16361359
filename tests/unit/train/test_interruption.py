"""A training that is told to end has saved what it has, says so, and never looks finished."""

import os
import signal

import pytest

from kan_md.train import run as run_module
from kan_md.train.folder import MODEL_FILE, RESULT_FILE
from kan_md.train.interrupt import TrainingInterrupted
from kan_md.train.log import EpochLog, read_log
from kan_md.train.run import train


class SignalInValidation(EpochLog):
    """Sends SIGTERM while the second of three epochs is validated."""

    epoch = 1

    def on_validation_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGTERM)


class SignalInLastValidation(SignalInValidation):
    """Sends it when nothing is left to train."""

    epoch = 2


@pytest.fixture(scope="module")
def whole(make_config, tmp_path_factory):
    """A run of three epochs that nobody ended."""
    folder = tmp_path_factory.mktemp("interruption") / "whole"
    train(make_config(), folder)
    return folder


@pytest.mark.parametrize(("at", "epochs"), [(SignalInValidation, 2), (SignalInLastValidation, 3)])
def test_validation_is_finished_and_the_run_goes_on(
    whole, make_config, tmp_path, monkeypatch, at, epochs
):
    ended = tmp_path / "ended"
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "EpochLog", at)
        with pytest.raises(TrainingInterrupted, match="everything is saved"):
            train(make_config(), ended)
    assert not (ended / RESULT_FILE).exists() and not (ended / MODEL_FILE).exists()
    rows = read_log(ended / "log.csv")
    assert len(rows) == epochs
    train(make_config(), ended, resume=True)
    assert (ended / RESULT_FILE).exists()
    for mine, theirs in zip(read_log(whole / "log.csv"), read_log(ended / "log.csv"), strict=True):
        for name in mine.keys() - {"seconds"}:
            assert theirs[name] == pytest.approx(mine[name], rel=1e-10), name
