"""Several processes that train one model: which one this is, who starts the others."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from kan_md import children
from kan_md.config.schema import TrainingConfig
from kan_md.data.batches import Share
from kan_md.errors import KanMdError, user_error
from kan_md.train.interrupt import TrainingInterrupted
from kan_md.waiting import num_cores

_WORKER = "kan_md.train.worker"
INTERRUPTED = 130
"""Exit status of a process that has saved and stopped."""

_PORTS, _PORTS_APART = 15000, 101
"""First port for tasks of ``srun`` and how many there are; from one step of a job to the next."""

_PATIENCE = 10.0
"""s until a process whose partner is gone is ended where it does not notice by itself."""


@dataclass(frozen=True)
class Processes:
    """Those that train one model together, and this one's place among them.

    Attributes:
        devices: processes on each machine.
        nodes: machines.
        environment: where Lightning looks the places up.
        starts_others: whether this process starts the others of its machine.
    """

    devices: int
    nodes: int
    environment: ClusterEnvironment
    starts_others: bool = False

    @property
    def of(self) -> int:
        """How many there are."""
        return self.devices * self.nodes

    @property
    def share(self) -> Share:
        """This one's part of every batch."""
        rank = self.environment.node_rank() * self.devices + self.environment.local_rank()
        return Share(rank, self.of)

    @property
    def is_first(self) -> bool:
        """Whether this one writes the files and speaks."""
        return self.share.rank == 0


class OwnEnvironment(LightningEnvironment):
    """Places of processes that kan-md starts itself; nothing is left in ``os.environ`` by it.

    Args:
        local_rank: place on this machine.
        node_rank: of this machine.
        address: of the first process.
        port: likewise.
    """

    creates_processes_externally = True

    def __init__(self, local_rank: int, node_rank: int, address: str, port: int) -> None:
        super().__init__()
        self._local_rank = local_rank
        self._node_rank = node_rank
        self._address = address
        self._main_port = port

    @property
    def main_address(self) -> str:
        """Of the first process."""
        return self._address

    def local_rank(self) -> int:
        """Place on this machine."""
        return self._local_rank

    def node_rank(self) -> int:
        """Place of this machine."""
        return self._node_rank

    def child(self, local_rank: int) -> OwnEnvironment:
        """That of another process of this machine."""
        return OwnEnvironment(local_rank, self._node_rank, self._address, self._main_port)


def external_rank() -> int:
    """Place of this process where ``srun`` or ``torchrun`` started several, else 0."""
    if _step_tasks() > 1:
        return int(os.environ["SLURM_PROCID"])
    return int(os.environ["RANK"]) if TorchElasticEnvironment.detect() else 0


def find_processes(training: TrainingConfig, device: str) -> Processes:
    """Work out with whom this process trains.

    Args:
        training: with ``devices`` and ``num_nodes``.
        device: ``cpu`` or ``cuda``.

    Raises:
        KanMdError: there are not so many devices, or others than that were started.
    """
    devices, nodes = training.devices, training.num_nodes
    _check_devices(devices, device)
    if _step_tasks() > 1:
        _check_started("srun", _step_tasks(), training)
        return Processes(devices, nodes, _place_in_step(training))
    if TorchElasticEnvironment.detect():
        _check_started("torchrun", int(os.environ["WORLD_SIZE"]), training)
        return Processes(devices, nodes, TorchElasticEnvironment())
    node_rank, address, port = 0, "127.0.0.1", 0
    if nodes > 1:
        absent = [n for n in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if n not in os.environ]
        if absent:
            raise user_error(
                f"training.num_nodes {nodes}",
                found=f"neither srun nor torchrun, and no {', '.join(absent)} in the environment",
                allowed=None,
                remedy="start with `srun kan-md train ...`, or set them on every node",
            )
        node_rank, address = int(os.environ["NODE_RANK"]), os.environ["MASTER_ADDR"]
        port = int(os.environ["MASTER_PORT"])
    elif devices > 1:
        port = find_free_network_port()
    environment = OwnEnvironment(0, node_rank, address, port)
    return Processes(devices, nodes, environment, starts_others=devices > 1)


def _place_in_step(training: TrainingConfig) -> OwnEnvironment:
    """Place among the tasks of ``srun``, in whichever words their number was asked for.

    Lightning's own environment wants ``--ntasks-per-node``, and takes ``-n`` for a mistake.

    Raises:
        KanMdError: tasks are not spread over the nodes as configured.
    """
    variables = os.environ
    nodes = int(variables.get("SLURM_STEP_NUM_NODES", variables.get("SLURM_NNODES", "1")))
    if nodes != training.num_nodes:
        raise _other_number("srun", f"{nodes} nodes", training)
    local_rank, node_rank = (int(variables[name]) for name in ("SLURM_LOCALID", "SLURM_NODEID"))
    if local_rank >= training.devices:
        raise _other_number("srun", f"at least {local_rank + 1} tasks on one node", training)
    names = variables.get("SLURM_STEP_NODELIST", variables.get("SLURM_NODELIST", "127.0.0.1"))
    address = variables.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(names)
    job, step = (int(variables.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    port = int(variables.get("MASTER_PORT", _PORTS + (job + _PORTS_APART * step) % _PORTS))
    return OwnEnvironment(local_rank, node_rank, address, port)


def _step_tasks() -> int:
    """Tasks of the step that ``srun`` runs; a batch script's own command is in none."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def _check_devices(devices: int, device: str) -> None:
    there = torch.cuda.device_count() if device == "cuda" else num_cores()
    if devices > there:
        what = "CUDA devices" if device == "cuda" else "cores"
        raise user_error(
            f"training.devices on {device}",
            found=devices,
            allowed=f"1 to {there}, the {what} that this process may use",
            remedy="set training.devices",
        )


def _check_started(how: str, started: int, training: TrainingConfig) -> None:
    if started != training.devices * training.num_nodes:
        raise _other_number(how, f"{started} processes", training)


def _other_number(how: str, started: str, training: TrainingConfig) -> KanMdError:
    return user_error(
        f"{how} started {started}",
        found=f"training.devices {training.devices} and num_nodes {training.num_nodes}",
        allowed="devices on each of num_nodes nodes, one process each",
        remedy=f"set both, or change what {how} starts",
    )


@contextmanager
def other_processes(processes: Processes, task: Mapping[str, Any]) -> Iterator[None]:
    """Run the other processes of this machine while the block runs, where it is ours to do.

    What goes wrong in one of them ends all, and is raised here as one line.

    Args:
        processes: see :func:`find_processes`.
        task: arguments of :func:`kan_md.train.run.train_part`, plain data and the configuration.

    Raises:
        KanMdError: one of them failed.
    """
    if not processes.starts_others:
        with _told_of_loss(processes):
            yield
        return
    others = _Others(processes, task)
    try:
        with _told_of_loss(processes):
            yield
    except BaseException as error:
        # All have agreed to save and to stop, and end by themselves.
        others.end(patience=_PATIENCE if isinstance(error, TrainingInterrupted) else 0.0)
        message = others.message
        if message is not None and isinstance(error, LostProcess):
            raise KanMdError(message) from None
        raise
    others.wait()


@contextmanager
def as_other(processes: Processes) -> Iterator[None]:
    """Let a process that ``srun`` or ``torchrun`` started be silent where the first one speaks.

    Before they are connected all have the same mistakes: of the configuration, of the data.
    """
    try:
        with _told_of_loss(processes):
            yield
    except TrainingInterrupted:
        raise
    except KanMdError as error:
        if isinstance(error, LostProcess) or not torch.distributed.is_initialized():
            raise SystemExit(2) from None
        rank, of = processes.share
        raise KanMdError(f"process {rank + 1} of {of}: {error}") from error


class LostProcess(KanMdError):  # noqa: N818 - named by what has happened
    """Another process of the run is gone; what it said is the cause."""


@contextmanager
def _told_of_loss(processes: Processes) -> Iterator[None]:
    """Tell errors of the connection to other processes from others."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()
        if processes.of == 1 or not lost:
            raise
        text = "a process of the run ended before its time; what it said is the cause"
        raise LostProcess(text) from error


class _Others:
    """Processes that this one has started.

    Attributes:
        message: what the first one that failed said, None where none has.
    """

    def __init__(self, processes: Processes, task: Mapping[str, Any]) -> None:
        self.message: str | None = None
        self._ending = threading.Event()
        self._of = processes.of
        self._first = processes.environment.node_rank() * processes.devices
        self._said: list[BinaryIO] = []
        self._running: list[subprocess.Popen] = []
        environment = processes.environment
        assert isinstance(environment, OwnEnvironment)
        for local_rank in range(1, processes.devices):
            place = Processes(processes.devices, processes.nodes, environment.child(local_rank))
            self._start({**task, "processes": place})
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def wait(self) -> None:
        """Wait until they are done.

        Raises:
            KanMdError: one has failed after this one was done.
        """
        self._ending.set()
        for process in self._running:
            process.wait()
        self._look()
        self._close()
        if self.message is not None:
            raise KanMdError(self.message)

    def end(self, *, patience: float) -> None:
        """End those that still run.

        Args:
            patience: seconds that they have to end by themselves.
        """
        self._ending.set()
        deadline = time.monotonic() + patience
        if self.message is None:  # one that failed may be about to end
            deadline = max(deadline, time.monotonic() + 1.0)
        while time.monotonic() < deadline and any(p.poll() is None for p in self._running):
            self._look()
            if self.message is not None:
                break
            time.sleep(0.05)
        self._look()
        for process in self._running:
            if process.poll() is None:
                process.kill()  # in a wait for this process it heeds nothing else
            process.wait()
        self._close()

    def _start(self, task: Mapping[str, Any]) -> None:
        said = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the end
        process = children.start(
            [sys.executable, "-m", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        self._said.append(said)
        self._running.append(process)
        assert process.stdin is not None
        with process.stdin as pipe:
            pipe.write(pickle.dumps(task))

    def _look(self) -> None:
        """Learn what the first one said that failed."""
        for index, (process, said) in enumerate(zip(self._running, self._said, strict=True)):
            if self.message is None and process.poll() not in (None, 0, INTERRUPTED):
                said.seek(0)
                lines = said.read().decode(errors="replace").strip().splitlines()
                text = lines[-1] if lines else children.how_it_ended(process.returncode)
                self.message = f"process {self._first + index + 2} of {self._of}: {text}"

    def _watch(self) -> None:
        """End this process where it waits for one that is gone and does not notice."""
        while not self._ending.wait(0.2):
            self._look()
            if self.message is not None and not self._ending.wait(_PATIENCE):
                sys.stderr.write(f"\x1b[?25hkan-md: error: {self.message}\n")
                sys.stderr.flush()
                for process in self._running:
                    process.kill()
                os._exit(2)

    def _close(self) -> None:
        self._watcher.join()
        for said in self._said:
            said.close()


@contextmanager
def leaving_group() -> Iterator[None]:
    """End the connections of a run behind the block: the next one in this process has its own."""
    try:
        yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
            for name in ("MASTER_ADDR", "MASTER_PORT"):
                os.environ.pop(name, None)
