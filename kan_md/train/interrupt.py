"""Ctrl-C: finish the step, save everything, stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from kan_md.errors import KanMdError
from kan_md.train.agreement import any_of, of_first, stop_is_wanted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(KanMdError):  # noqa: N818 - an interruption is no error
    """The run was interrupted; its state is saved and ``--resume`` continues it."""


class Interruption(Callback):
    """Turns SIGINT and SIGTERM into a checkpoint and :class:`TrainingInterrupted`.

    Within an epoch the state is saved after the step that is under way. After the last step of an
    epoch its validation is still done, and the checkpoint of the epoch serves; after the last epoch
    results are left to ``--resume``. A second signal ends the process at once.

    Args:
        checkpoint: file to save to.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.requested = False
        self._handler: Callable[[int, FrameType | None], None] | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals inside; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}

        def request(number: int, frame: FrameType | None) -> None:
            self.requested = True
            for name, handler in before.items():
                signal.signal(name, handler)

        self._handler = request
        try:
            for number in _SIGNALS:
                signal.signal(number, request)
            yield
        finally:
            self._handler = None
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take SIGTERM back from Lightning, which has put itself before us in the meantime.

        It would leave in the middle of an epoch, saving nothing, by a ``SystemExit`` of status 0,
        and send to other processes in the handler, whatever these are exchanging.
        """
        if self._handler is not None and not self.requested:
            signal.signal(signal.SIGTERM, self._handler)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save and stop, unless the epoch is at its end."""
        if stop_is_wanted(trainer, self.requested) and not trainer.is_last_batch:
            pl_module.gather_sums()
            trainer.save_checkpoint(self.checkpoint)
            self._stop(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop behind an epoch that is complete and saved."""
        (there,) = of_first(trainer, self.checkpoint.exists())
        if any_of(trainer, self.requested) and there:
            self._stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave evaluation and results to ``--resume``: who ends a process does not wait long."""
        if any_of(trainer, self.requested):
            self._stop(trainer)

    def _stop(self, trainer: Trainer) -> None:
        raise TrainingInterrupted(
            f"interrupted in epoch {trainer.current_epoch}, step {trainer.global_step}; "
            f"everything is saved; continue with --resume"
        )
