"""Whether the batches of a run fit into memory, said before it begins."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kan_md.config.schema import TrainingConfig
from kan_md.data.graph_store import GIGABYTE
from kan_md.data.label_report import source_of
from kan_md.errors import user_error
from kan_md.train.loaders import train_loader
from kan_md.train.losses import Errors
from kan_md.train.preparation import PreparedData
from kan_md.train.processes import Processes

_ROOM = 0.8
"""Share of the free memory that the number to set would take."""


def check_memory(
    module: lightning.LightningModule,
    data: PreparedData,
    training: TrainingConfig,
    processes: Processes,
    device: str,
) -> None:
    """Refuse batches whose tensors alone take more than the memory that is free.

    The tensors of a step with one structure are counted; those of a batch are as many times as
    large as it has more edges. What operators take besides is not known, so that this says of no
    batch that it fits.

    Args:
        module: on a CPU, as it will be trained.
        data: the run's.
        training: sizes of batches.
        processes: that share each of them, and on a CPU the memory of their machine.
        device: ``cpu`` or ``cuda``.

    Raises:
        KanMdError: with the number to set.
    """
    dataset = data.datasets["train"]
    edges = dataset.data_list.num_edges
    example = sorted(range(len(edges)), key=edges.__getitem__)[len(edges) // 2]
    if edges[example] == 0:
        return
    batch = dataset.collate([dataset[example]])
    taken = tensor_bytes(lambda: _step(module, batch)) / edges[example]
    free = free_memory(device)
    together = processes.nodes if device == "cpu" else processes.of
    batches = train_loader(data, training).batch_sampler.whole()
    largest = max(sum(edges[i] for i in whole) for whole in batches)
    if taken * largest / together <= free:
        return
    limit = int(_ROOM * free * together / taken)
    biggest = max(range(len(edges)), key=edges.__getitem__)
    fits = edges[biggest] <= limit
    raise user_error(
        f"memory for the largest batch, {largest:,} edges",
        found=f"{taken * largest / together / GIGABYTE:.3g} GB for the tensors of a step",
        allowed=f"{free / GIGABYTE:.3g} GB, which are free",
        remedy=f"set training.batch_edges: {limit}"
        if fits
        else f"leave out structures of more than {limit:,} edges (the largest, "
        f"{source_of(data.frames['train'][biggest])}, has {edges[biggest]:,}) or shrink the model",
    )


def tensor_bytes(function: Callable[[], object]) -> int:
    """Most bytes that tensors made in a call take at one time."""
    with _Tensors() as tensors:
        function()
    return tensors.most


def free_memory(device: str) -> float:
    """Bytes that this process can have: of the GPU, or of the machine and its control group."""
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    return min(_of_machine(), _of_group())


class _Tensors(TorchDispatchMode):
    """Counts the storages that operations make, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self._now += storage.nbytes()
        self.most = max(self.most, self._now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._sizes.pop(key)


def _step(module: lightning.LightningModule, batch: dict[str, torch.Tensor]) -> None:
    """Forward, forces and gradient of the loss's sums; leaves the module as it was."""
    errors = Errors(module(batch), batch)
    total = sum(metric.sums(errors)[0] for metric in module.loss.values())
    module.backward(total)  # by the parameters alone, as in a step
    module.zero_grad(set_to_none=True)


def _of_machine() -> float:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    return float("inf")  # no Linux


def _of_group() -> float:
    """What the control group leaves; files that it has read can go."""
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError, KeyError):
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        lines = (group / "memory.stat").read_text().splitlines()
        files = {line.split()[0]: int(line.split()[1]) for line in lines}["inactive_file"]
        return float(int(limit) - int(used) + files)
    return float("inf")
