"""Training that has run away: noticed after the epoch, told, never delivered as a model."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from kan_md.errors import KanMdError, user_error
from kan_md.train.metrics import MONITOR


class StopAtDivergence(Callback):
    """Ends the run once the validation loss is no number: the weights never come back from that.

    The best epoch before it is still a good model and is kept.

    Args:
        console: where to say so.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the loss of this epoch."""
        loss = trainer.callback_metrics.get(MONITOR)
        if loss is not None and loss.isnan():
            trainer.should_stop = True
            self.console.print(
                f"training diverged in epoch {trainer.current_epoch + 1}; stopped", highlight=False
            )


def check_best(score: torch.Tensor | None, state: dict[str, torch.Tensor]) -> None:
    """Refuse a run whose best epoch is none.

    Args:
        score: validation loss of the best epoch; Lightning writes infinity where it was NaN.
        state: weights of that epoch by name.

    Raises:
        KanMdError: the loss or a weight is not finite.
    """
    if score is not None and not score.isfinite():
        raise _diverged("a validation loss that is not finite")
    if not all(weight.isfinite().all() for weight in state.values() if torch.is_tensor(weight)):
        raise _diverged("weights that are not finite")


def _diverged(found: str) -> KanMdError:
    return user_error(
        "training diverged",
        found=found,
        allowed=None,
        remedy="lower training.optimizer.lr or set training.gradient_clip, and --overwrite",
    )
