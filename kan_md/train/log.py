"""What is seen of a run: a row per epoch in log.csv, a progress bar, lines where there is none."""

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
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kan_md.files import write_text
from kan_md.train.budget import Budget

_SECONDS_BETWEEN_LINES = 10.0


def epoch_values(trainer: Trainer) -> dict[str, float]:
    """Losses and errors of the epoch that ends, by short name, e.g. ``val_forces_mae``."""
    values = {}
    for key, value in trainer.callback_metrics.items():
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
    """

    def __init__(self, path: Path, budget: Budget) -> None:
        self.path = path
        self.budget = budget
        self._rows: list[dict[str, float]] = []
        self._names: list[str] = []
        self._text = io.StringIO(newline="")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the rows of the epochs before this one."""
        rows = read_log(self.path) if trainer.current_epoch else []
        self._rows = [row for row in rows if row["epoch"] < trainer.current_epoch]
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
        self._rows.append(row)
        if row.keys() <= set(self._names):
            self._add([row])
        else:
            # A term of the loss that was added later has an empty cell in the rows before.
            self._names = list(dict.fromkeys(name for row in self._rows for name in row))
            self._text = io.StringIO(newline="")
            csv.DictWriter(self._text, self._names).writeheader()
            self._add(self._rows)
        write_text(self.path, self._text.getvalue(), durable=False)  # checkpoints are what counts

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


class ProgressDisplay(Callback):
    """A bar over the budget on a terminal, now and then a line elsewhere.

    Args:
        console: where to; nothing is shown where it is quiet.
        budget: what the bar measures.
    """

    def __init__(self, console: Console, budget: Budget) -> None:
        self.console = console
        self.budget = budget
        self._bar: Progress | None = None
        self._last_line = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
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

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self.budget.progress(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the errors of the epoch."""
        text = _headline(trainer)
        if self._bar is not None:
            self._bar.update(self._task, description=text)
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.console.print(f"{100 * self.budget.progress(trainer):3.0f} %  {text}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the finished bar."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Free the terminal."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _headline(trainer: Trainer) -> str:
    """Epoch and validation MAE of each target by its initial: E, F, S in eV, eV/Å, eV/Å³."""
    parts = [f"epoch {trainer.current_epoch + 1}"]
    for name, value in epoch_values(trainer).items():
        if name.startswith("val_") and name.endswith("_mae") and "per_structure" not in name:
            target = name.removeprefix("val_").removesuffix("_mae")
            if math.isnan(value):
                continue  # no labels in the validation set
            label = target[0].upper() if target in ("energy", "forces", "stress") else target
            parts.append(f"{label} {value:.3g}")
    return "  ".join(parts)
