"""Going on with a run under a configuration that may have changed."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from kan_md.data.batches import Batches
from kan_md.errors import user_error
from kan_md.train.checkpoints import BEST, LAST
from kan_md.train.resumed_settings import Change

_MODEL = "model."
_EMA = "ema."
_EMA_STATE = "ema._extra_state"
_SUMS = ("loss.", "train_metrics.", "val_metrics.", "test_metrics.")


def evaluated_weights(
    state: Mapping[str, torch.Tensor], module: lightning.LightningModule
) -> dict[str, torch.Tensor]:
    """Weights that a checkpoint's validation was done with: averaged ones where there are.

    Args:
        state: ``state_dict`` of a checkpoint, with or without an average.
        module: of the same model, with or without an average.

    Returns:
        By name in ``module.model``.
    """
    weights = {
        name.removeprefix(_MODEL): value for name, value in state.items() if name.startswith(_MODEL)
    }
    for index, (name, _) in enumerate(module.model.named_parameters()):
        average = state.get(f"{_EMA}ema_weight_{index}")
        if average is not None:
            weights[name] = average
    return weights


def put_weights(module: lightning.LightningModule, weights: Mapping[str, torch.Tensor]) -> None:
    """Give a module weights to evaluate with; an average starts again from them."""
    module.model.load_state_dict(weights)
    if hasattr(module, "ema"):
        module.ema.num_updates = 0
        module.ema.update_parameters(module.model)


def check_finite_weights(content: Mapping[str, Any], path: Path) -> None:
    """Refuse to go on from weights that nothing comes back from.

    Raises:
        KanMdError: a weight is not finite.
    """
    weights = (v for n, v in content["state_dict"].items() if n.startswith((_MODEL, _EMA)))
    if not all(w.isfinite().all() for w in weights if torch.is_tensor(w)):
        raise user_error(
            f"weights in {path}",
            found="NaN or infinity: the training diverged",
            allowed=None,
            remedy="start a new run with a lower training.optimizer.lr; training.init_from takes "
            "the best weights over",
        )


def adapt(
    content: Mapping[str, Any],
    module: lightning.LightningModule,
    trainer: lightning.Trainer,
    changes: Sequence[Change],
    *,
    batches: tuple[Batches, Batches],
) -> tuple[dict[str, Any], list[str]]:
    """Fit a checkpoint to a module, an optimiser and callbacks of other settings.

    Args:
        content: of the checkpoint; not changed.
        module: to go on with.
        trainer: that will do it.
        changes: settings that differ from those of the checkpoint.
        batches: of an epoch, before and now.

    Returns:
        Content to go on from, and lines that say what starts anew.
    """
    new = {key: copy.copy(value) for key, value in content.items()}
    keys = {change.key for change in changes}
    notes: list[str] = []
    new["state_dict"] = _state(content["state_dict"], module, keys, notes)
    new["optimizer_states"] = [_optimizer(content, module, changes, notes)]
    new["lr_schedulers"] = []  # an older version's plateau was one of Lightning's
    new["callbacks"] = _callbacks(content["callbacks"], trainer, keys)
    if keys & {"training.batch_size", "training.batch_edges"}:
        new["loops"] = _loops(content["loops"], _batches_now(*batches))
    return new, notes


def score_best(content: dict[str, Any], trainer: lightning.Trainer, score: float | None) -> None:
    """Let the best epoch be the one in ``best.ckpt``, with this score.

    Args:
        content: to go on from; changed in place.
        trainer: that will go on.
        score: validation loss of that epoch; None where it is lost, so that the next one is best.
    """
    chooser = best_chooser(trainer)
    path = str(Path(chooser.dirpath) / BEST)
    known = score is not None
    value = torch.tensor(score if known else torch.inf, dtype=torch.float64)
    content["callbacks"][chooser.state_key] = {
        "monitor": chooser.monitor,
        "dirpath": chooser.dirpath,
        "best_model_score": value if known else None,
        "current_score": value if known else None,
        "best_model_path": path if known else "",
        "best_k_models": {path: value} if known else {},
        "kth_best_model_path": path if known else "",
        "kth_value": value,
        "last_model_path": "",
    }


def best_chooser(trainer: lightning.Trainer) -> ModelCheckpoint:
    """The callback that keeps ``best.ckpt``."""
    (chooser,) = [
        callback
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None
    ]
    return chooser


def saved_score(content: Mapping[str, Any], trainer: lightning.Trainer) -> float | None:
    """Validation loss in a ``best.ckpt``, by the loss of its time."""
    state = content["callbacks"].get(best_chooser(trainer).state_key, {})
    score = state.get("best_model_score")
    return None if score is None else float(score)


def changes_the_score(keys: Sequence[str]) -> bool:
    """Whether with these keys changed the validation loss is another quantity."""
    return any(
        key.startswith(("training.loss.", "training.stages", "targets.")) and key[-5:] != ".unit"
        for key in keys
    )


def _state(
    old: Mapping[str, Any],
    module: lightning.LightningModule,
    keys: set[str],
    notes: list[str],
) -> dict[str, Any]:
    """Weights as saved, sums of a changed loss anew, an average as it is asked for now."""
    fresh = module.state_dict()
    state = dict(fresh)
    keep_sums = not changes_the_score(sorted(keys))
    for name in fresh:
        is_sum = name.startswith(_SUMS)
        if name in old and not name.endswith("_extra_state") and (keep_sums or not is_sum):
            state[name] = old[name]
    if _EMA_STATE in fresh:
        if _EMA_STATE in old:
            # The decay is the one of now.
            state[_EMA_STATE] = {**old[_EMA_STATE], "decay": fresh[_EMA_STATE]["decay"]}
        else:
            for index, (name, _) in enumerate(module.model.named_parameters()):
                state[f"{_EMA}ema_weight_{index}"] = old[f"{_MODEL}{name}"].clone()
            notes.append("the average of the weights starts from those of now")
    missing = [name for name in fresh if name.startswith(_MODEL) and name not in old]
    assert not missing, f"a changed model is refused before, yet {missing[0]} is new"
    return state


def _optimizer(
    content: Mapping[str, Any],
    module: lightning.LightningModule,
    changes: Sequence[Change],
    notes: list[str],
) -> dict[str, Any]:
    """The optimiser's memory, with the settings of now."""
    configured = module.configure_optimizers()
    fresh = configured.state_dict()
    (old,) = content["optimizer_states"]
    keys = {change.key for change in changes}
    numbers = [[len(group["params"]) for group in s["param_groups"]] for s in (fresh, old)]
    if "training.optimizer.name" in keys or numbers[0] != numbers[1]:
        notes.append("the optimiser starts without a memory")
        return fresh
    rate_stays = not keys & {"training.optimizer.lr", "training.schedule.name"}
    groups = []
    for mine, theirs in zip(fresh["param_groups"], old["param_groups"], strict=True):
        group = {**theirs, **mine, "params": theirs["params"]}  # some count their steps there
        if rate_stays:  # a plateau's rate is nowhere else
            group["lr"] = theirs["lr"]
        groups.append(group)
    return {"state": old["state"], "param_groups": groups}


def _callbacks(
    old: Mapping[str, Any], trainer: lightning.Trainer, keys: set[str]
) -> dict[str, Any]:
    """States of the callbacks that there are now, at the place where the folder is now."""
    states = {}
    for callback in trainer.callbacks:
        state = old.get(callback.state_key)
        if state is None:
            continue
        state = dict(state)
        if isinstance(callback, ModelCheckpoint):
            # The folder may have been moved or copied; nothing elsewhere is ever removed.
            place = Path(callback.dirpath)
            state |= {"dirpath": callback.dirpath, "best_model_path": str(place / LAST)}
        if isinstance(callback, EarlyStopping):
            state["patience"] = callback.patience
            if changes_the_score(sorted(keys)):
                state |= {"wait_count": 0, "best_score": torch.tensor(torch.inf)}
        if "plateau" in state and (
            changes_the_score(sorted(keys))
            or keys & {"training.schedule.name", "training.optimizer.lr"}
        ):
            state["plateau"] = {}
        states[callback.state_key] = state
    return states


def _batches_now(before: Batches, now: Batches) -> Fraction:
    """Batches of now that are as much as one of before."""
    if before.batch_edges is None and now.batch_edges is None:
        return Fraction(before.batch_size, now.batch_size)
    return Fraction(len(now), len(before))


def _loops(old: Mapping[str, Any], rate: Fraction) -> dict[str, Any]:
    """The place within an epoch, in batches of now; ``rate`` of them are one of before.

    Structures of a batch that is only partly through are seen twice in this epoch; where batches
    are made by edges, others than those that were to come may be seen.
    """
    loops = copy.deepcopy(dict(old))
    fit = loops["fit_loop"]
    progress = fit["epoch_loop.batch_progress"]
    for loader in fit["state_dict"].get("combined_loader", []):
        loader["delivered"] = math.floor(loader["delivered"] * rate)
    current = progress["current"]
    if not progress["is_last_batch"]:
        # Saved when the last batch was processed, but not yet counted as completed.
        pending = current["processed"] - current["completed"]
        done = math.floor(current["processed"] * rate)
        current |= {"ready": done, "started": done, "processed": done}
        current["completed"] = done - pending
    return loops
