"""Errors of predicted fields, for losses and for tables."""

from __future__ import annotations

from typing import Literal

import torch
from nequip.data import AtomicDataDict
from torchmetrics import Metric

from kan_md.data.dataset import WEIGHT_PREFIX

Function = Literal["mse", "huber", "mae", "rmse"]


def rho(error: torch.Tensor, function: Function, *, delta: float) -> torch.Tensor:
    """What an error costs: ``mae`` its size, ``huber`` Δ²/2 up to ``delta``, else Δ²."""
    if function == "mae":
        return error.abs()
    if function == "huber":
        return torch.nn.functional.huber_loss(
            error, torch.zeros_like(error), reduction="none", delta=delta
        )
    return error.square()


class Errors:
    """Errors of a batch, those of a field made once for all that look at them.

    Args:
        preds: predicted fields.
        target: labels.
    """

    def __init__(self, preds: AtomicDataDict.Type, target: AtomicDataDict.Type) -> None:
        self._preds = preds
        self.target = target
        self._made: dict[tuple[str, bool], tuple[torch.Tensor, torch.Tensor]] = {}

    def of(self, field: str, *, per_atom: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Errors [rows, components], zero where there is no label, and the number of labels.

        Args:
            field: key of prediction and label.
            per_atom: divide a structure's by its number of atoms.
        """
        key = (field, per_atom)
        if key not in self._made:
            self._made[key] = self._make(field, per_atom=per_atom)
        return self._made[key]

    def _make(self, field: str, *, per_atom: bool) -> tuple[torch.Tensor, torch.Tensor]:
        if per_atom:
            rows, count = self.of(field, per_atom=False)
            return rows / self.target[AtomicDataDict.NUM_NODES_KEY].view(-1, 1), count
        label = self.target[field].to(torch.float64)
        error = self._preds[field].to(torch.float64).reshape(label.shape) - label
        known = ~label.flatten(1).isnan()
        # where(), not a product: a gradient through NaN * 0 would be NaN.
        return torch.where(known, error.flatten(1), 0.0), known.sum().to(torch.float64)


class TargetError(Metric):
    """Mean error of one field over all labelled components; NaN labels are left out.

    A prediction that is NaN makes the mean NaN: it is no error of zero.

    With frame weights w the mean is Σ w·ρ(Δ)/Σ 1, so that a frame of weight 2 counts like two.

    Args:
        field: key of prediction and label in nequip's dictionary.
        per: whether rows of the field are structures or atoms.
        per_atom: divide a structure's error by its number of atoms before ρ.
        function: ρ: ``mse`` Δ², ``huber`` (quadratic within ``delta``: Δ²/2), ``mae`` |Δ|; ``rmse``
            is the root of the mean of Δ².
        delta: of Huber, in units of the field.
        weighted: whether weights of frames and labels count, as in a loss.
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False

    def __init__(
        self,
        field: str,
        per: Literal["structure", "atom"],
        *,
        per_atom: bool = False,
        function: Function = "mse",
        delta: float = 0.01,
        weighted: bool = False,
    ) -> None:
        # Of several processes' sums those of all metrics are made at once, by the module.
        super().__init__(sync_on_compute=False)
        self.field = field
        self.per = per
        self.per_atom = per_atom
        self.function = function
        self.delta = delta
        self.weighted = weighted
        for name in ("total", "count"):
            # Kept in checkpoints: a run resumed within an epoch averages over the whole epoch.
            self.add_state(
                name,
                default=torch.zeros((), dtype=torch.float64),
                dist_reduce_fx="sum",
                persistent=True,
            )

    def update(self, preds: AtomicDataDict.Type, target: AtomicDataDict.Type) -> None:
        """Add the errors of a batch, differentiable."""
        total, count = self.sums(Errors(preds, target))
        self.total = self.total + total
        self.count = self.count + count

    def sums(self, errors: Errors) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of ρ over the labelled components of a batch, differentiable, and their number."""
        rows, count = errors.of(self.field, per_atom=self.per_atom)
        values = rho(rows, self.function, delta=self.delta)
        if self.weighted:
            values = values * self._row_weights(errors.target)
        return values.sum(), count

    def add(self, total: torch.Tensor, count: torch.Tensor) -> None:
        """Add what :meth:`sums` gave, without what torchmetrics does around an update."""
        self.total += total.detach()
        self.count += count
        self._update_count += 1  # compute() warns where nothing was added
        self._computed = None

    def compute(self) -> torch.Tensor:
        """The mean over everything since the last reset.

        Where nothing was labelled, a term of the loss is 0 and an error that is shown is NaN.
        """
        if not self.weighted and self.count == 0:
            return torch.full_like(self.total, torch.nan)
        mean = self.total / self.count.clamp(min=1)
        return mean.sqrt() if self.function == "rmse" else mean

    def _row_weights(self, target: AtomicDataDict.Type) -> torch.Tensor:
        weights = target[WEIGHT_PREFIX + self.field]  # [num_frames, 1]
        return weights[target[AtomicDataDict.BATCH_KEY]] if self.per == "atom" else weights
