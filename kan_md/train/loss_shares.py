"""What each term is of the loss, at the start and after the first epoch, and which is too little.

A term of a thousandth is not learned but by accident: the optimiser sees the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from rich.console import Console

NEGLIGIBLE = 1e-3
"""Share below which a term is warned of."""

WORTHWHILE = 0.1
"""Share for which a weight is proposed."""

LOSS_KEY = "training.loss.{}"
"""Key of a term's weight."""

_PREFIX = "loss_"
_EPOCH = "train_loss_epoch/"


class LossShares(Checkpoint):
    """Prints the shares of the first step and of the first epoch, and again with other weights.

    Lightning calls callbacks of this base class last, when the epoch's losses are known.

    Args:
        console: where to.
        key: name of a term's weight in the configuration, with ``{}`` for the term.
    """

    def __init__(self, console: Console, *, key: str = LOSS_KEY) -> None:
        self.console = console
        self.key = key
        self._of_step: dict[str, float] = {}
        self._of_epoch: dict[str, float] = {}

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Say the shares of the first step."""
        coefficients = coefficients_of(pl_module)
        if coefficients != self._of_step:
            when = "at first" if not self._of_step else "with other weights at first"
            self._of_step = coefficients
            self._tell(pl_module.terms_of_step(), coefficients, when=when)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say the shares of the first epoch, and which are too small."""
        coefficients = coefficients_of(pl_module)
        if coefficients == self._of_epoch:
            return
        self._of_epoch = coefficients
        when = f"in epoch {trainer.current_epoch + 1}"
        means = {
            key.removeprefix(_EPOCH): value
            for key, value in trainer.lightning_module.values_of_epoch.items()
            if key.startswith(_EPOCH)
        }
        terms = self._tell(means, coefficients, when=when)
        for line in warnings_of(terms, coefficients, self.key):
            self.console.print(f"warning: {line}", highlight=False, soft_wrap=True)

    def _tell(
        self, means: Mapping[str, torch.Tensor], coefficients: Mapping[str, float], *, when: str
    ) -> dict[str, float]:
        """Print the shares; returns the weighted terms."""
        terms = {
            name: coefficient * float(means[f"{_PREFIX}{name}"])
            for name, coefficient in coefficients.items()
        }
        total = sum(terms.values())
        if len(terms) > 1 and math.isfinite(total) and total > 0:
            shares = ", ".join(f"{name} {_percent(term / total)}" for name, term in terms.items())
            self.console.print(f"loss {when}: {shares}", highlight=False)
        return terms


def coefficients_of(module: LightningModule) -> dict[str, float]:
    """Weights of the terms that count now, by target; their sum is one."""
    return {
        name.removeprefix(_PREFIX): float(entry.coeff)
        for name, entry in module.loss.entries.items()
        if entry.coeff is not None and entry.coeff > 0
    }


def warnings_of(
    terms: Mapping[str, float], coefficients: Mapping[str, float], key: str
) -> list[str]:
    """What to say of terms that are too small a part of the loss.

    Args:
        terms: weighted, by target.
        coefficients: their weights, of which any multiple is as good.
        key: see :class:`LossShares`.
    """
    total = sum(terms.values())
    if not math.isfinite(total) or total <= 0:
        return []
    lines = []
    for name, term in terms.items():
        if not 0 < term < NEGLIGIBLE * total:
            continue
        factor = WORTHWHILE / (1 - WORTHWHILE) * (total - term) / term
        others = {other: value for other, value in coefficients.items() if other != name}
        reference = "forces" if "forces" in others else max(others, key=others.__getitem__)
        weight = factor * coefficients[name] / others[reference]
        lines.append(
            f"{name} is {_percent(term / total)} of the loss, so that it is hardly learned; "
            f"{key.format(name)}: {weight:.2g} beside {reference}: 1 would make it "
            f"{_percent(WORTHWHILE)}"
        )
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"
