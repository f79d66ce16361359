"""Going on with a run: what is checked before anything is touched, and what it goes on from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping

from kan_md.config.schema import TrainConfig
from kan_md.errors import user_error
from kan_md.model.checkpoint import load_checkpoint
from kan_md.train.budget import Budget
from kan_md.train.checkpoints import SavedRun, read_best
from kan_md.train.fingerprint import check_same_data, fingerprint
from kan_md.train.folder import read_results
from kan_md.train.loaders import evaluation_loader, train_loader
from kan_md.train.metrics import MONITOR, learned_names
from kan_md.train.preparation import PreparedData
from kan_md.train.resume import (
    adapt,
    changes_the_score,
    check_finite_weights,
    evaluated_weights,
    put_weights,
    saved_score,
    score_best,
)
from kan_md.train.resumed_settings import Change, find_changes, refuse
from kan_md.train.trainer import accelerator_of


@dataclass(frozen=True)
class Continuation:
    """A saved run under the configuration of now.

    Attributes:
        saved: the run.
        config: of now.
        changes: what differs from the configuration that it was trained with.
        folder: of the run.
    """

    saved: SavedRun
    config: TrainConfig
    changes: tuple[Change, ...]
    folder: Path

    def go_on(
        self,
        module: lightning.LightningModule,
        data: PreparedData,
        trainer: lightning.Trainer,
        budget: Budget,
    ) -> tuple[dict[str, Any], str | None, list[str]]:
        """Work out what to go on from.

        Args:
            module: to train; its weights are not those of the run yet.
            data: the run's.
            trainer: that will go on.
            budget: its callback; learns what the run has taken so far.

        Returns:
            Content of a checkpoint; why there is nothing left to train, or None; lines to show.

        Raises:
            KanMdError: nothing is left, but a changed setting would act on steps.
        """
        saved, training = self.saved, self.config.training
        notes = [*saved.notes]
        if self.changes:
            notes.append(f"changed: {'; '.join(map(str, self.changes))}")
        before = {key: saved.config["training"].get(key) for key in ("batch_size", "batch_edges")}
        content, more = adapt(
            saved.content,
            module,
            trainer,
            self.changes,
            batches=(
                train_loader(data, training.model_copy(update=before)).batch_sampler,
                train_loader(data, training).batch_sampler,
            ),
        )
        results = read_results(self.folder) or {}
        budget.clock.before = max(saved.seconds, results.get("wall_seconds", 0.0))
        reason = self._why_nothing_is_left(content, trainer, budget)
        if reason is not None:
            self._refuse_late_changes(reason)
        score, said = self._score_of_best(module, data, trainer)
        score_best(content, trainer, score)
        return content, reason, [*notes, *more, *said]

    @property
    def is_written(self) -> bool:
        """Whether the folder holds the results that would be written now."""
        results = read_results(self.folder)
        same = not any(change.effect == "results" for change in self.changes)
        return same and results is not None and results.get("epochs") == self.saved.epochs

    def _why_nothing_is_left(
        self, content: Mapping[str, Any], trainer: lightning.Trainer, budget: Budget
    ) -> str | None:
        epochs, max_time = self.config.training.epochs, self.config.training.max_time
        done = self.saved.epochs
        if epochs is not None and done >= epochs:
            return f"{done} of {epochs} epochs are done"
        if budget.seconds_left <= 0:
            return f"{budget.clock.seconds:.0f} s of training.max_time, {max_time:g} s, are used up"
        for callback in trainer.callbacks:
            state = content["callbacks"].get(callback.state_key, {})
            waited = state.get("wait_count", 0)
            if isinstance(callback, EarlyStopping) and waited >= callback.patience:
                return f"training.early_stop ended it after {done} epochs"
        return None

    def _refuse_late_changes(self, reason: str) -> None:
        late = [change for change in self.changes if change.effect == "steps"]
        if late:
            raise user_error(
                f"{late[0].key} of a run without steps left ({reason})",
                found=late[0].now,
                allowed=late[0].before,
                remedy="raise training.epochs or training.max_time, too",
            )

    def _score_of_best(
        self, module: lightning.LightningModule, data: PreparedData, trainer: lightning.Trainer
    ) -> tuple[float | None, list[str]]:
        """Validation loss of the best epoch so far, by the loss of now; and what to say of it."""
        best = read_best(self.folder)
        if best is None:
            return None, ["best.ckpt is missing or damaged: the best epoch is one of those to come"]
        if not changes_the_score([change.key for change in self.changes]):
            return saved_score(best, trainer), []
        put_weights(module, evaluated_weights(best["state_dict"], module))
        judge = lightning.Trainer(
            accelerator=accelerator_of(trainer.strategy.root_device.type),
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            inference_mode=False,
        )
        loader = evaluation_loader(data, "val", self.config.training)
        (found,) = judge.validate(module, loader, verbose=False)
        score = found[MONITOR]
        return score, [f"best epoch so far, {best['epoch'] + 1}: its loss is {score:.4g} by now"]


def check_continuation(config: TrainConfig, saved: SavedRun, folder: Path) -> Continuation:
    """Hold a configuration against a saved run.

    Raises:
        KanMdError: a key cannot change, or the run cannot be gone on with.
    """
    changes = find_changes(saved.config, config, earlier_version=not saved.data)
    refuse(changes)
    _check_source(config, saved)
    check_finite_weights(saved.content, saved.path)
    return Continuation(saved, config, tuple(changes), folder)


def settle_types(config: TrainConfig, data: PreparedData, saved: SavedRun | None) -> None:
    """Types of another model are trained, and those of a run do not change.

    Args:
        config: of now.
        data: whose statistics learn which types are never trained.
        saved: a run that is gone on with.

    Raises:
        KanMdError: the types of the run would change.
    """
    if saved is not None:
        data.statistics.update(saved.statistics)
        known = list(saved.arguments["type_names"])
        if data.type_names != known:
            raise user_error(
                "model.type_names of a resumed run",
                found=", ".join(data.type_names),
                allowed=", ".join(known),
                remedy="put it back, or start a new run",
            )
    elif config.training.init_from is not None:
        source = load_checkpoint(config.training.init_from, wanted="source")
        here = data.statistics["untrained_types"]
        known = [n for n in source.type_names if n not in source.untrained_types]
        data.statistics["untrained_types"] = [n for n in here if n not in known]
        there = source.statistics.get("min_distances")
        if there is not None and list(source.type_names) == data.type_names:
            before = torch.as_tensor(there, dtype=torch.float64).flatten().tolist()
            pairs = zip(data.statistics["min_distances"], before, strict=True)
            seen = [[distance for distance in pair if distance > 0] for pair in pairs]
            data.statistics["min_distances"] = [min(pair, default=0.0) for pair in seen]


def make_record(
    config: TrainConfig,
    data: PreparedData,
    settings: Sequence[Mapping[str, Any]],
    saved: SavedRun | None,
) -> dict[str, Any]:
    """What the next resumed run will want to know.

    Args:
        config: of now.
        data: of now.
        settings: of the command line.
        saved: a run that is gone on with.

    Raises:
        KanMdError: it was trained with other data.
    """
    learned = learned_names(data.config)
    found = fingerprint(data.frames, config.task.targets)
    if saved is not None:
        check_same_data(saved.data, found, saved.learned)
        learned |= set(saved.learned)
        source = saved.source
    elif config.training.init_from is not None:
        path = config.training.init_from
        source = {"path": str(path.absolute()), "sha256": _sha256(path)}
    else:
        source = {}
    return {
        "config": config.model_dump(mode="json"),
        "settings": [dict(setting) for setting in settings],
        "data": found,
        "learned": sorted(learned),
        "statistics": {n: data.statistics[n] for n in ("untrained_types", "min_distances")},
        "source": source,
    }


def _check_source(config: TrainConfig, saved: SavedRun) -> None:
    """Where the weights came from is settled; another spelling of the same file is the same."""
    now = config.training.init_from
    before = saved.source.get("path") or saved.config["training"].get("init_from")
    if now is None and before is None:
        return
    if now is not None and before is not None:
        if now.absolute() == Path(before).absolute():
            return
        if now.is_file() and _sha256(now) == saved.source.get("sha256"):
            return
    raise user_error(
        "training.init_from of a resumed run",
        found="null" if now is None else now,
        allowed="null" if before is None else before,
        remedy="put it back, or start a new run",
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
