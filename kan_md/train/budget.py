"""What changes while the budget is used up: learning rate, loss of the stage, the end."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from kan_md.config.schema import ScheduleConfig
from kan_md.train.agreement import of_first
from kan_md.train.clock import Clock, Reserve
from kan_md.train.metrics import MONITOR

_WARMUP_START = 0.04
"""First learning rate of a warm-up as a share of the largest; torch's OneCycleLR has the same."""

_PLATEAU_STATE = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
"""What torch's scheduler remembers, other than its settings."""


def rate_factor(progress: float, schedule: ScheduleConfig) -> float:
    """Learning rate as a share of the largest one.

    Args:
        progress: share of the budget that is used up, 0 to 1.
        schedule: its shape.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < schedule.warmup:
        part = progress / schedule.warmup
        rise = (1 - math.cos(math.pi * part)) / 2 if schedule.name == "one_cycle" else part
        return _WARMUP_START + (1 - _WARMUP_START) * rise
    part = (progress - schedule.warmup) / (1 - schedule.warmup)
    if schedule.name in ("cosine", "one_cycle"):
        return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * part)) / 2
    if schedule.name == "exponential":
        return schedule.final**part
    return 1.0


class Budget(Callback):
    """Spends epochs and wall-clock time: sets the learning rate, begins stages, ends the run.

    Progress is the larger of the share of the epochs and the share of the time, so that a schedule
    reaches its end whichever runs out first. The time counts over interruptions, from the start of
    the process to the end of the writing: training ends early enough for what follows it.

    Args:
        schedule: of the learning rate.
        lr: largest learning rate.
        epochs: number of epochs, or None.
        max_time: seconds, or None.
        base: coefficients for the loss manager before the first stage.
        stages: (start, coefficients for the loss manager, learning rate or None) in order.
        clock: measures the wall-clock time; one that starts now where ``None``.
        reserve: knows what is left to do after the last step.

    Attributes:
        rate: learning rate of the last step.
        stage: number of stages that have begun.
    """

    def __init__(
        self,
        schedule: ScheduleConfig,
        lr: float,
        *,
        epochs: int | None,
        max_time: float | None,
        base: dict[str, float] | None = None,
        stages: Sequence[tuple[float, dict[str, float], float | None]] = (),
        clock: Clock | None = None,
        reserve: Reserve | None = None,
    ) -> None:
        self.schedule = schedule
        self.lr = lr
        self.epochs = epochs
        self.max_time = max_time
        self.base = base
        self.stages = tuple(stages)
        self.clock = clock or Clock()
        self.reserve = reserve
        self.rate = lr
        self.stage = -1
        self._trained = 0.0
        self._started: float | None = None
        self._last_step = 0.0
        self._step_started = 0.0
        self._plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] = {}
        self._own_rate: float | None = None

    @property
    def seconds(self) -> float:
        """Time spent in training, start-up and interruptions left out."""
        running = 0.0 if self._started is None else time.monotonic() - self._started
        return self._trained + running

    @property
    def seconds_left(self) -> float:
        """Time that further steps may take, s; infinite where only epochs are counted."""
        if self.max_time is None:
            return math.inf
        reserved = 0.0 if self.reserve is None else self.reserve.seconds
        return self.max_time - self.clock.seconds - reserved

    def progress(self, trainer: Trainer) -> float:
        """Share of the budget that is used up, 0 to 1."""
        shares = [0.0]
        if self.epochs is not None:
            batches = max(1, int(trainer.num_training_batches))
            done = trainer.fit_loop.epoch_loop.batch_progress.current.processed
            shares.append((trainer.current_epoch * batches + done) / (self.epochs * batches))
        if self.max_time is not None:
            left = max(0.0, self.seconds_left)
            shares.append(self.seconds / (self.seconds + left) if self.seconds + left > 0 else 1.0)
        return min(1.0, max(shares))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know."""
        if self._plateau is not None:
            self._plateau_state = {name: getattr(self._plateau, name) for name in _PLATEAU_STATE}
        return {
            "seconds": self.seconds,
            "wall": self.clock.seconds,
            "plateau": dict(self._plateau_state),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        self._trained = state_dict["seconds"]
        self._plateau_state = dict(state_dict.get("plateau", {}))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the training and the plateau's watch."""
        self._started = self._step_started = time.monotonic()
        if self.schedule.name == "plateau":
            self._plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                trainer.optimizers[0], factor=self.schedule.factor, patience=self.schedule.patience
            )
            for name, value in self._plateau_state.items():
                setattr(self._plateau, name, value)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rate and the loss of this step."""
        self._step_started = time.monotonic()
        progress = self.progress(trainer)
        if self.max_time is not None:
            (progress,) = of_first(trainer, progress)
        begun = sum(progress >= start for start, _, _ in self.stages)
        if begun > self.stage:  # a run whose budget was raised may be before a stage again
            self.stage = begun
            coefficients = self.stages[begun - 1][1] if begun else self.base
            if coefficients is not None:
                pl_module.loss.set_coeffs(coefficients)
        own = self.stages[self.stage - 1][2] if self.stage > 0 else None
        if self.schedule.name != "plateau":
            factor = rate_factor(progress, self.schedule)
            self._set_rate(trainer, self.lr * factor if own is None else own)
        elif own is not None and self._own_rate != own:
            self._set_rate(trainer, own)
        self._own_rate = own
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """End the run when the time is up; Lightning validates once more."""
        self._last_step = time.monotonic() - self._step_started
        self._stop_in_time(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lower the rate on a plateau; begin no epoch that there is no time for."""
        score = trainer.callback_metrics.get(MONITOR)
        if self._plateau is not None and score is not None:
            self._plateau.step(float(score))
        self._stop_in_time(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._trained, self._started = self.seconds, None

    def _stop_in_time(self, trainer: Trainer) -> None:
        if self.max_time is None:
            return
        (late,) = of_first(trainer, self.seconds_left <= self._last_step)
        if late:
            trainer.should_stop = True

    @staticmethod
    def _set_rate(trainer: Trainer, rate: float) -> None:
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
