"""Batches that cannot fit are refused with the number to set; those of lonely atoms train."""

import ase
import ase.io
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator

from kan_md.errors import KanMdError
from kan_md.train import memory
from kan_md.train.log import read_log
from kan_md.train.memory import free_memory, tensor_bytes
from kan_md.train.run import train


def test_most_bytes_at_one_time_are_counted():
    """8 MB live at most: of the sum, and of what is summed, views being nothing of their own."""

    def work():
        x = torch.ones(1_000_000)
        y = x.view(1000, 1000).T[:5] + x[:5000].view(5, 1000)
        del y
        z = x + 1.0
        del x
        return z.sum()

    assert tensor_bytes(work) == pytest.approx(8e6, rel=1e-3)


def test_gradients_count():
    """Backward keeps x, and makes a gradient of x and one of its square."""
    x = torch.ones(1_000_000, requires_grad=True)
    assert tensor_bytes(lambda: x.square().sum().backward()) >= 8e6


def test_this_machine_has_memory():
    assert 1e6 < free_memory("cpu") < 1e15


def test_batch_that_does_not_fit_names_the_number_to_set(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "tensor_bytes", lambda step: 1e6)  # of 96 or 192 edges
    monkeypatch.setattr(memory, "free_memory", lambda device: 4e6)
    with pytest.raises(KanMdError, match=r"largest batch, .* set training.batch_edges: \d+") as e:
        train(make_config({"training.batch_size": 8}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    number = int(str(e.value).rsplit(" ", 1)[1])
    train(make_config({"training.batch_edges": number, "training.epochs": 1}), tmp_path / "run")


def test_structure_that_does_not_fit_is_named(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 1e4)
    with pytest.raises(
        KanMdError, match=r"leave out structures of more than \d+ edges .*alloy.xyz"
    ):
        train(make_config(), tmp_path / "run")


@pytest.mark.parametrize("place", [0, 4])
def test_structure_without_neighbours_is_a_step_of_its_own(
    make_config, alloy_file, tmp_path, place
):
    """In the training set, and in the validation set."""
    frames = ase.io.read(alloy_file, ":4")
    lonely = ase.Atoms("CuAu", [[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    lonely.calc = SinglePointCalculator(lonely, energy=0.1, forces=[[0.0] * 3] * 2)
    frames.insert(place, lonely)
    ase.io.write(tmp_path / "with.xyz", frames)
    split = {"method": "block", "train": 3, "val": 2, "test": 0, "blocks": 1}
    changes = {"data.train": str(tmp_path / "with.xyz"), "data.split": split}
    train(make_config(changes | {"training.batch_size": 1, "training.epochs": 2}), tmp_path / "run")
    rows = read_log(tmp_path / "run" / "log.csv")
    assert len(rows) == 2
    assert all(row["train_loss"] > 0 and row["val_loss"] > 0 for row in rows)
