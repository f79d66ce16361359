"""What is seen of a run: a row per epoch in log.csv, the curve, a line per epoch, a bar."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from nequip.data import AtomicDataDict
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kan_md.files import write_text
from kan_md.tasks.targets import Target
from kan_md.train.budget import Budget
from kan_md.train.figure import plot_learning_curves
from kan_md.train.loggers import logged_names
from kan_md.train.metrics import milli, shown_unit

_SECONDS_BETWEEN_CURVES = 30.0
_SHARE_OF_CURVES = 0.01
"""Of the time that goes into drawing."""


def epoch_values(trainer: Trainer) -> dict[str, float]:
    """Losses and errors of the epoch that ends, by short name, e.g. ``val_forces_mae``."""
    values = {}
    for key, value in trainer.lightning_module.values_of_epoch.items():
        part, _, name = key.partition("/")
        if part == "train_loss_epoch":
            values["train_loss" if name == "weighted_sum" else f"train_{name}"] = float(value)
        elif part == "train_metric_epoch":
            values[f"train_{name}"] = float(value)
        elif part == "val0_epoch":
            values["val_loss" if name == "weighted_sum" else f"val_{name}"] = float(value)
    return values


class EpochLog(Checkpoint):
    """Writes ``log.csv``: one row per epoch, kept over interruptions.

    Lightning calls callbacks of this base class last, when the epoch's training errors are known.
    The file is written whole each time: it is never seen with half a row.

    Args:
        path: of the file. Rows of epochs that a resumed run does again are dropped.
        budget: knows the time.

    Attributes:
        rows: of all epochs so far.
    """

    def __init__(self, path: Path, budget: Budget) -> None:
        self.path = path
        self.budget = budget
        self.rows: list[dict[str, float]] = []
        self._names: list[str] = []
        self._text = io.StringIO(newline="")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the rows of the epochs before this one."""
        rows = read_log(self.path) if trainer.current_epoch else []
        self.rows = [row for row in rows if row["epoch"] < trainer.current_epoch]
        self._names = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the row of this epoch."""
        row = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "seconds": round(self.budget.seconds, 3),
            "lr": self.budget.rate,
            **epoch_values(trainer),
        }
        self.rows.append(row)
        if row.keys() <= set(self._names):
            self._add([row])
        else:
            # A term of the loss that was added later has an empty cell in the rows before.
            self._names = list(dict.fromkeys(name for row in self.rows for name in row))
            self._text = io.StringIO(newline="")
            csv.DictWriter(self._text, self._names).writeheader()
            self._add(self.rows)
        write_text(self.path, self._text.getvalue(), durable=False)  # checkpoints are what counts
        for logger in trainer.loggers:
            logger.log_metrics(logged_names(row), step=trainer.global_step)

    def _add(self, rows: Sequence[dict[str, float]]) -> None:
        csv.DictWriter(self._text, self._names, restval="").writerows(rows)


def read_log(path: Path) -> list[dict[str, float]]:
    """Rows of a ``log.csv``; an empty list where there is none.

    An empty cell is NaN. Earlier versions may have left half a row; it ends the file.
    """
    try:
        text = path.read_text()
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    whole = text[: text.rfind("\n") + 1]
    rows = []
    for cells in csv.DictReader(io.StringIO(whole)):
        try:
            row = {key: _number(key, value) for key, value in cells.items()}
        except (TypeError, ValueError):
            break
        rows.append(row)
    return rows if all("epoch" in row for row in rows) else []


def _number(key: str, text: str | None) -> float:
    if text is None:
        raise ValueError("fewer cells than columns")
    if key in ("epoch", "step"):
        return int(text)
    return float(text) if text else math.nan


class LiveCurve(Checkpoint):
    """Draws the learning curve now and then, so that it can be watched while the run goes on.

    Lightning calls callbacks of this base class last; this one stands behind :class:`EpochLog`.

    Args:
        log: has the rows.
        path: of the figure.
        targets: everything that is learned.
        averaged: whether validation is of the running average of the weights.
        seconds: at least between two drawings; drawing takes a hundredth of the time at most.
    """

    def __init__(
        self,
        log: EpochLog,
        path: Path,
        targets: Sequence[Target],
        *,
        averaged: bool,
        seconds: float = _SECONDS_BETWEEN_CURVES,
    ) -> None:
        self._log = log
        self._path = path
        self._targets = targets
        self._averaged = averaged
        self._seconds = seconds
        self._next = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to wait."""
        self._next = time.monotonic() + self._seconds

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw if it is time."""
        start = time.monotonic()
        if start < self._next:
            return
        rows = self._log.rows
        best = min(rows, key=lambda row: (math.isnan(row["val_loss"]), row["val_loss"]))
        plot_learning_curves(
            rows,
            self._targets,
            self._path,
            steps_per_epoch=int(trainer.num_training_batches),
            best_epoch=best["epoch"] + 1,
            averaged=self._averaged,
        )
        taken = time.monotonic() - start
        self._next = time.monotonic() + max(self._seconds, taken / _SHARE_OF_CURVES)


class ProgressDisplay(Callback):
    """A line for every epoch, and a bar over the budget on a terminal.

    Args:
        console: where to; nothing is shown where it is quiet.
        budget: what the bar measures.
        targets: whose errors are shown.
        processes: which go through as many atoms and edges as this one, each.
    """

    def __init__(
        self, console: Console, budget: Budget, targets: Sequence[Target], *, processes: int = 1
    ) -> None:
        self.console = console
        self.budget = budget
        self.targets = targets
        self.processes = processes
        self._bar: Progress | None = None
        self._headed = False
        self._epoch_started = self._epoch_trained = 0.0
        self._atoms = self._edges = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar, and begin to count: no epoch starts where one is gone on with."""
        self.on_train_epoch_start(trainer, pl_module)
        if not self.console.is_terminal or self.console.quiet:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:3.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._bar.start()
        self._task = self._bar.add_task("training", total=1.0)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._epoch_started = self._epoch_trained = time.monotonic()
        self._atoms = self._edges = 0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count, and move the bar."""
        self._epoch_trained = time.monotonic()
        self._atoms += AtomicDataDict.num_nodes(batch)
        self._edges += AtomicDataDict.num_edges(batch)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.budget.progress(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the line of the epoch."""
        values = epoch_values(trainer)
        shown = [target for target in self.targets if f"val_{target.name}_mae" in values]
        if not self._headed:
            self._headed = True
            units = ", ".join(f"{_short(t)} {self._unit(t)[0]}" for t in shown)
            self._print(f"epochs, validation: loss, MAE of {units}; steps: atoms/s and edges/s")
        errors = [
            f"{_short(target)} {self._unit(target)[1] * values[f'val_{target.name}_mae']:.4g}"
            for target in shown
            if not math.isnan(values[f"val_{target.name}_mae"])  # no labels for validation
        ]
        seconds = max(self._epoch_trained - self._epoch_started, 1e-9) / self.processes
        progress = self.budget.progress(trainer)
        of_all = "" if self.budget.epochs is None else f"/{self.budget.epochs}"
        words = [
            f"epoch {trainer.current_epoch + 1}{of_all}",
            f"loss {values['val_loss']:.4g}",
            *errors,
            f"lr {self.budget.rate:.2g}",
            f"{self._atoms / seconds:,.0f} atoms/s",
            f"{self._edges / seconds:,.0f} edges/s",
            f"{in_words(self.budget.seconds * (1 - progress) / max(progress, 1e-9))} left",
        ]
        self._print("  ".join(words))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the finished bar."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Free the terminal."""
        self._close()

    def _unit(self, target: Target) -> tuple[str, float]:
        return milli(shown_unit(f"{target.name}_mae", self.targets))

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _short(target: Target) -> str:
    """E, F, S; tensors have names of their own."""
    return target.name[0].upper() if target.named_by_key else target.name


def in_words(seconds: float) -> str:
    """A time that somebody waits: ``40 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
