"""Two trainings never write into one folder, and remains of a killed one go."""

import fcntl
import os

import pytest

from kan_md.errors import KanMdError
from kan_md.train.folder_lock import Claim
from kan_md.train.run import train


def test_a_folder_belongs_to_one_training_at_a_time(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with Claim(tmp_path) as first, Claim(tmp_path) as second:
        first.take()
        with pytest.raises(KanMdError, match="got a training that is running there; wait"):
            second.take()
    with Claim(tmp_path) as third:
        third.take()


@pytest.mark.parametrize("how", [{"resume": True}, {"overwrite": True}])
def test_a_running_training_is_neither_resumed_nor_replaced(tmp_path, make_config, how):
    train(make_config({"training.epochs": 1}), tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    handle = os.open(tmp_path / "run/checkpoints", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)  # as another process holds it
    try:
        with pytest.raises(KanMdError, match="a training that is running there"):
            train(make_config({"training.epochs": 2}), tmp_path / "run", **how)
    finally:
        os.close(handle)
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert after == before


def test_remains_of_a_killed_writer_are_cleared(tmp_path):
    place = tmp_path / "checkpoints"
    place.mkdir()
    for name in (".last.0a1b2c3d.ckpt", ".best.0a1b2c3d.ckpt", "last.ckpt", "best.ckpt"):
        (place / name).write_bytes(b"x")
    with Claim(tmp_path) as claim:
        claim.take()
    assert sorted(path.name for path in place.iterdir()) == ["best.ckpt", "last.ckpt"]
