"""Several processes train as one does, stop together and fail in one line."""

import io
import os
import pickle
import signal
import sys
import types
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from lightning.fabric.plugins.environments import TorchElasticEnvironment

from kan_md.data.batches import Share
from kan_md.data.dataset import WHOLE_PREFIX, FramesDataset, make_loader
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint
from kan_md.tasks.targets import POTENTIAL_TARGETS
from kan_md.train import run as run_module
from kan_md.train import worker
from kan_md.train.interrupt import TrainingInterrupted
from kan_md.train.log import EpochLog, read_log
from kan_md.train.processes import find_processes
from kan_md.train.run import train
from kan_md.waiting import num_cores

pytestmark = pytest.mark.filterwarnings("ignore:.*barrier.*:UserWarning")

TWO = pytest.mark.skipif(num_cores() < 2, reason="one core")


class AtFifthStep(EpochLog):
    """Something that happens within the second epoch of three steps."""

    sums = 0
    sums_before: ClassVar[list[int]] = []  # [steps]

    def happen(self):
        os.kill(os.getpid(), signal.SIGINT)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.sums_before.append(self.sums)
        if trainer.global_step == 4:
            self.happen()


class OtherIsKilled(AtFifthStep):
    """As by the kernel where memory runs out."""

    def happen(self):
        for process in others():
            os.kill(process, signal.SIGKILL)


def counted(all_reduce):
    def count(*arguments, **options):
        AtFifthStep.sums += 1
        return all_reduce(*arguments, **options)

    return count


def others() -> list[int]:
    """Processes of a run that this one has started."""
    tasks = Path("/proc/self/task").glob("*/children")
    started = [int(number) for task in tasks for number in task.read_text().split()]
    named = {number: Path(f"/proc/{number}/cmdline").read_bytes() for number in started}
    return [number for number, words in named.items() if b"kan_md.train.worker" in words]


# Eight structures, three a step: 2 + 1 and, in the last, 1 + 1.
SETTINGS = {
    "training.batch_size": 3,
    "training.gradient_clip": 0.5,
    "training.regularization.l1": 1e-3,
    "readout.fit_grid": {"steps": [0, 5]},
}


@TWO
def test_two_processes_stop_and_go_on_as_one_would(make_config, tmp_path, monkeypatch):
    """Interrupted within an epoch as two, gone on with as one: the curve of one alone."""
    train(make_config(SETTINGS), tmp_path / "one")
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "EpochLog", AtFifthStep)
        patch.setattr(torch.distributed, "all_reduce", counted(torch.distributed.all_reduce))
        with pytest.raises(TrainingInterrupted, match="--resume"):
            train(make_config(SETTINGS | {"training.devices": 2}), tmp_path / "two")
    _, second, third, fourth, fifth = AtFifthStep.sums_before
    assert third - second == fifth - fourth == 1  # of gradients; a sum over processes waits for all
    assert others() == []
    assert not torch.distributed.is_initialized()
    assert not {"MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"} & os.environ.keys()
    assert [row["step"] for row in read_log(tmp_path / "two" / "log.csv")] == [3]
    train(make_config(SETTINGS), tmp_path / "two", resume=True)
    one, two = (read_log(tmp_path / name / "log.csv") for name in ("one", "two"))
    assert len(one) == len(two) == 3
    for mine, theirs in zip(one, two, strict=True):
        for name in mine.keys() - {"seconds"}:
            assert theirs[name] == pytest.approx(mine[name], rel=1e-8), name
    weights = [load_checkpoint(tmp_path / n / "model.pth").state_dict for n in ("one", "two")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-8, atol=1e-10, msg=name)


@TWO
def test_more_processes_than_structures_and_a_loss_of_one(make_config, tmp_path, monkeypatch):
    """A process without a structure takes part; one that is gone ends all in one line."""
    settings = {"training.batch_size": 1, "training.devices": 2, "training.ema": None}
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "EpochLog", OtherIsKilled)
        with pytest.raises(KanMdError, match="process 2 of 2: ended by SIGKILL, as") as error:
            train(make_config(settings), tmp_path)
    assert "\n" not in str(error.value)
    assert others() == []
    assert not torch.distributed.is_initialized()
    train(make_config({"training.epochs": 1}), tmp_path, overwrite=True)  # the folder is free


def test_a_share_of_a_batch_says_how_much_of_the_whole_is_labelled(alloy_frames):
    frames = [atoms.copy() for atoms in alloy_frames[:5]]
    for number, (atoms, labelled) in enumerate(zip(frames, alloy_frames, strict=False)):
        labels = dict(labelled.calc.results)
        if number % 2:
            del labels["stress"]
        if number == 4:
            del labels["energy"]
        atoms.calc = SinglePointCalculator(atoms, **labels)
    dataset = FramesDataset(frames, 3.2, type_names=["Cu", "Au"], targets=POTENTIAL_TARGETS)
    seen = []
    for rank in range(2):
        loader = make_loader(dataset, 3, shuffle_seed=1, share=Share(rank, 2))
        seen.append(list(loader))
    whole = list(make_loader(dataset, 3, shuffle_seed=1))
    for mine, theirs, batch in zip(*seen, whole, strict=True):
        for target in POTENTIAL_TARGETS:
            number = (~batch[target.field].isnan()).sum()
            assert mine[WHOLE_PREFIX + target.field] == number
            assert theirs[WHOLE_PREFIX + target.field] == number
            assert WHOLE_PREFIX + target.field not in batch


def settings(make_config, **training):
    return make_config({f"training.{key}": value for key, value in training.items()}).training


@pytest.fixture
def srun(monkeypatch):
    """The environment of task 5 of 8 on 2 nodes."""
    for name, value in {
        "SLURM_NTASKS": 8,
        "SLURM_STEP_NUM_TASKS": 8,
        "SLURM_NNODES": 2,
        "SLURM_NODELIST": "a[07-08]",
        "SLURM_JOB_ID": 31234567,
        "SLURM_PROCID": 5,
        "SLURM_LOCALID": 1,
        "SLURM_NODEID": 1,
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("kan_md.train.processes.num_cores", lambda: 4)


def test_srun_says_who_is_who(make_config, srun):
    found = find_processes(settings(make_config, devices=4, num_nodes=2), "cpu")
    assert found.share == Share(5, 8) and not found.is_first and not found.starts_others
    assert found.environment.main_address == "a07"  # the same in every task
    assert found.environment.main_port == 15000 + 31234567 % 15000


@pytest.mark.parametrize(
    ("devices", "nodes", "words"),
    [(1, 1, "srun started 8 processes, got training.devices 1 and num_nodes 1"),
     (2, 4, "srun started 2 nodes, got training.devices 2 and num_nodes 4"),
     (4, 2, "srun started at least 5 tasks on one node, got training.devices 4 and num_nodes 2")],
)  # fmt: skip
def test_srun_of_another_number_is_told(make_config, srun, monkeypatch, devices, nodes, words):
    monkeypatch.setenv("SLURM_LOCALID", "4")
    with pytest.raises(KanMdError, match=words):
        find_processes(settings(make_config, devices=devices, num_nodes=nodes), "cpu")


def test_command_of_a_batch_script_starts_its_own(make_config, srun, monkeypatch):
    """It is in no step, although the job has many tasks."""
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    found = find_processes(settings(make_config, devices=2), "cpu")
    assert found.starts_others and found.share == Share(0, 2)
    assert not find_processes(settings(make_config), "cpu").starts_others


def test_torchrun_says_who_is_who(make_config, monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": 2, "RANK": 1, "LOCAL_RANK": 0,
                        "GROUP_RANK": 1}.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    found = find_processes(settings(make_config, num_nodes=2), "cpu")
    assert isinstance(found.environment, TorchElasticEnvironment)
    assert found.share == Share(1, 2)


def test_nodes_without_a_starter_are_told_what_to_set(make_config, monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(KanMdError, match=r"no NODE_RANK, MASTER_ADDR.*srun kan-md train"):
        find_processes(settings(make_config, num_nodes=2), "cpu")


def test_more_devices_than_there_are(make_config, monkeypatch):
    with pytest.raises(KanMdError, match=rf"devices on cpu, got 4097; allowed: 1 to {num_cores()}"):
        find_processes(settings(make_config, devices=4097), "cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(KanMdError, match=r"on cuda, got 4; allowed: 1 to 3, the CUDA devices"):
        find_processes(settings(make_config, devices=4), "cuda")


def test_a_worker_says_its_mistake_in_one_line(monkeypatch):
    """The first process shows its last line."""

    def fails(**task):
        raise KanMdError(f"no {task['what']}")

    monkeypatch.setattr(run_module, "train_part", fails)
    monkeypatch.setattr(worker, "tune_allocator", lambda: None)
    stdin = types.SimpleNamespace(buffer=io.BytesIO(pickle.dumps({"what": "disk"})))
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(SystemExit, match="no disk"):
        worker.main()
