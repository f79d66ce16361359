"""What changes while the budget is used up: learning rate, loss of the stage, the end."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from kan_md.config.schema import ScheduleConfig

_WARMUP_START = 0.04
"""First learning rate of a warm-up as a share of the largest; torch's OneCycleLR has the same."""


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

    Progress is the larger of the share of the steps and the share of the time, so that a schedule
    reaches its end whichever runs out first. The time counts over interruptions.

    Args:
        schedule: of the learning rate. A plateau's reductions come from torch's own scheduler.
        lr: largest learning rate.
        epochs: number of epochs, or None.
        max_time: seconds, or None.
        stages: (start, coefficients for the loss manager, learning rate or None) in order.
    """

    def __init__(
        self,
        schedule: ScheduleConfig,
        lr: float,
        *,
        epochs: int | None,
        max_time: float | None,
        stages: Sequence[tuple[float, dict[str, float], float | None]] = (),
    ) -> None:
        self.schedule = schedule
        self.lr = lr
        self.epochs = epochs
        self.max_time = max_time
        self.stages = tuple(stages)
        self.stage = 0
        self._spent = 0.0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """Time spent in training, interruptions left out."""
        running = 0.0 if self._started is None else time.monotonic() - self._started
        return self._spent + running

    def progress(self, trainer: Trainer) -> float:
        """Share of the budget that is used up, 0 to 1."""
        shares = [0.0]
        if self.epochs is not None:
            steps = self.epochs * max(1, int(trainer.num_training_batches))
            shares.append(trainer.global_step / steps)
        if self.max_time is not None:
            shares.append(self.seconds / self.max_time)
        return min(1.0, max(shares))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know."""
        return {"seconds": self.seconds, "stage": self.stage}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        self._spent = state_dict["seconds"]
        self.stage = state_dict["stage"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rate and the loss of this step."""
        progress = self.progress(trainer)
        while self.stage < len(self.stages) and progress >= self.stages[self.stage][0]:
            _, coefficients, rate = self.stages[self.stage]
            pl_module.loss.set_coeffs(coefficients)
            if rate is not None:
                self._set_rate(trainer, rate)
            self.stage += 1
        own_rate = self.stage > 0 and self.stages[self.stage - 1][2] is not None
        if self.schedule.name != "plateau" and not own_rate:
            self._set_rate(trainer, self.lr * rate_factor(progress, self.schedule))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """End the run when the time is up; Lightning validates once more."""
        if self.max_time is not None and self.seconds >= self.max_time:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._spent, self._started = self.seconds, None

    @staticmethod
    def _set_rate(trainer: Trainer, rate: float) -> None:
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
