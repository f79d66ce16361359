"""Wall-clock time of a run: what it has taken, and what its end will take."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from nequip.data import AtomicDataDict

from kan_md.train.checkpoints import CheckpointFiles

_MARGIN = 1.2
"""A machine is not always equally fast."""

_ENOUGH = 1.0
"""s; an evaluation that takes longer is no matter of warming up."""


class Clock:
    """Time of this process since it was started, and of those before it.

    Args:
        started: value of ``time.monotonic()`` at the start; now where ``None``.
        before: s, time of earlier processes of the same run.
    """

    def __init__(self, started: float | None = None, *, before: float = 0.0) -> None:
        self.started = time.monotonic() if started is None else started
        self.before = before

    @property
    def seconds(self) -> float:
        """Time in all, s."""
        return self.before + self.of_this_process

    @property
    def of_this_process(self) -> float:
        """Time since the start, s."""
        return time.monotonic() - self.started


class Reserve(Callback):
    """Estimates what follows the last step: validation, evaluation of all parts, writing.

    Args:
        atoms: number of atoms in the structures of each part.
        example: a validation batch, to measure before the first validation.
        files: knows how long a checkpoint takes.
        writing: s, everything else until the process ends.
    """

    def __init__(
        self,
        atoms: Mapping[str, int],
        example: Iterable[AtomicDataDict.Type],
        files: CheckpointFiles,
        *,
        writing: float,
    ) -> None:
        self.atoms = dict(atoms)
        self.writing = writing
        self._example = example
        self._files = files
        self._per_atom = 0.0
        self._started = 0.0

    @property
    def seconds(self) -> float:
        """The estimate, s."""
        evaluated = self.atoms["val"] + sum(self.atoms.values())
        return _MARGIN * (self._per_atom * evaluated + 2 * self._files.seconds) + self.writing

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate one batch, twice if the first time may have been spent on warming up."""
        batch = next(iter(self._example))
        number = int(batch[AtomicDataDict.POSITIONS_KEY].shape[0])
        for _ in range(2):
            start = time.monotonic()
            pl_module(_on_device(batch, pl_module))
            taken = time.monotonic() - start
            if taken > _ENOUGH:
                break
        self._per_atom = taken / number

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start measuring."""
        self._started = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the whole validation as the measure."""
        self._per_atom = (time.monotonic() - self._started) / self.atoms["val"]


def _on_device(batch: AtomicDataDict.Type, module: LightningModule) -> dict[str, Any]:
    return {name: value.detach().clone().to(module.device) for name, value in batch.items()}
