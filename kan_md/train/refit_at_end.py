"""The readouts of the best epoch solved exactly, between training and its results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning

from kan_md.config.schema import TrainConfig
from kan_md.model.checkpoint import Checkpoint
from kan_md.solve.memory import MEMORY_KEY
from kan_md.solve.refit import refit
from kan_md.train.metrics import all_losses, loss_weights
from kan_md.train.module import MODEL_KEY
from kan_md.train.preparation import PreparedData
from kan_md.train.resume import put_weights


def refit_at_end(
    module: lightning.LightningModule,
    config: TrainConfig,
    data: PreparedData,
    arguments: Mapping[str, Any],
) -> str:
    """Solve for the training set, judged by the validation set; see :mod:`kan_md.solve.refit`.

    The module gets the new weights, and ``data.statistics`` the sums that model.pth keeps.

    Args:
        module: with the weights of the best epoch.
        config: of the run, with its loss in numbers.
        data: of the run.
        arguments: of the model.

    Returns:
        What happened, in a line.
    """
    checkpoint = Checkpoint(
        backbone=config.model.backbone,
        config={"model": dict(arguments)},
        type_names=data.type_names,
        r_max=config.model.r_max,
        state_dict=module.model[MODEL_KEY].state_dict(),
    )
    weights = loss_weights(all_losses(config)[-1], config)
    found = refit(checkpoint, data.frames["train"], data.frames["val"], weights=weights)
    solved = found.checkpoint.state_dict
    put_weights(module, {f"{MODEL_KEY}.{name}": value for name, value in solved.items()})
    data.statistics[MEMORY_KEY] = found.checkpoint.statistics[MEMORY_KEY]
    if found.solution is None:
        return "readout solved exactly: no solution did better on the validation set"
    before, after = (found.errors["judge"][when] for when in ("before", "after"))
    changes = ", ".join(
        f"{name} {1e3 * before[name]:.3g} -> {1e3 * after[name]:.3g} {unit}"
        for name, unit in {"energy": "meV/atom", "forces": "meV/Å", "stress": "meV/Å³"}.items()
        if after[name] is not None
    )
    return f"readout solved exactly, {found.size} unknowns; validation RMSE: {changes}"
