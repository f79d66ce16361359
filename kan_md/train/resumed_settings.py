"""What a resumed run does with each key of its configuration: one table, and its application.

A key either takes effect from the step at which the run goes on, or is refused by name before any
work, because the weights, the best epoch or the order of the data were made with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from kan_md.backbones.arguments import ABSENT, STATISTICS, find_differences, same
from kan_md.config.schema import TrainConfig
from kan_md.errors import user_error

Effect = Literal["steps", "budget", "results", "speed", "refused", "content"]
"""What another value does to a resumed run:

``steps``: the steps to come are other ones; ``budget``: so is their number; ``results``: model.pth
and the tables are other ones; ``speed``: the same numbers, faster or slower; ``refused``: an error;
``content``: what is read counts, however its place is written, an error where that differs.
"""

RESUME: dict[str, Effect] = {
    "data": "content",
    "model": "refused",
    "readout": "refused",
    "readout.fit_grid": "steps",
    "readout.fit_grid.steps": "steps",
    "readout.fit_grid.blend": "steps",
    "readout.fit_grid.every": "steps",
    "readout.fit_grid.until": "steps",
    "targets": "refused",
    "targets.weight": "steps",
    "targets.unit": "results",
    "training.loss.energy": "steps",
    "training.loss.forces": "steps",
    "training.loss.stress": "steps",
    "training.loss.function": "steps",
    "training.loss.delta": "steps",
    "training.loss.energy_per": "steps",
    "training.optimizer.name": "steps",
    "training.optimizer.lr": "steps",
    "training.optimizer.weight_decay": "steps",
    "training.schedule.name": "steps",
    "training.schedule.warmup": "steps",
    "training.schedule.final": "steps",
    "training.schedule.factor": "steps",
    "training.schedule.patience": "steps",
    "training.batch_size": "steps",
    "training.batch_edges": "steps",
    "training.val_batch_size": "speed",
    "training.epochs": "budget",
    "training.max_time": "budget",
    "training.ema": "steps",
    "training.early_stop": "budget",
    "training.early_stop.patience": "budget",
    "training.early_stop.min_delta": "budget",
    "training.gradient_clip": "steps",
    "training.regularization.l1": "steps",
    "training.regularization.entropy": "steps",
    "training.regularization.curvature": "steps",
    "training.stages": "steps",
    "training.seed": "refused",
    "training.device": "speed",
    "training.devices": "speed",
    "training.num_nodes": "speed",
    "training.threads": "speed",
    "training.form": "speed",
    "training.loggers": "speed",
    "training.init_from": "content",
    "training.fresh_readout": "refused",
    "training.freeze": "steps",
    "training.refit": "results",
    "training.reference_frames": "results",
}
"""Every key of section training; a section elsewhere stands for all keys in it without a line."""


_WORDS_OF_BEFORE = {"per_type_energy_shifts": ("least_squares", "auto")}
"""Defaults of before and of now that a run in between does not feel: it has its numbers."""


@dataclass(frozen=True)
class Change:
    """One key with another value than before.

    Attributes:
        key: its name, ``section.key``.
        before: what the run was trained with.
        now: what the configuration says now.
        effect: see :data:`Effect`.
    """

    key: str
    before: object
    now: object
    effect: Effect

    def __str__(self) -> str:
        """Old and new value."""
        return f"{self.key} {_text(self.before)} -> {_text(self.now)}"


def effect_of(key: str) -> Effect:
    """Look a key up in :data:`RESUME`, by itself or by the section that holds it.

    Raises:
        KeyError: it has no line there.
    """
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        found = RESUME.get(".".join(parts[:length]))
        if found is not None:
            return found
    raise KeyError(key)


def find_changes(
    before: Mapping[str, Any], config: TrainConfig, *, earlier_version: bool = False
) -> list[Change]:
    """What a configuration says other than the one that a run was trained with.

    Args:
        before: that one, ``config.model_dump(mode="json")`` of it.
        config: the one of now.
        earlier_version: whether a version with other words for what is worked out from the data
            wrote it; what they stood for is settled.
    """
    now = config.model_dump(mode="json")
    old_model = dict(before["model"])
    for name in STATISTICS & old_model.keys() if earlier_version else ():
        if _is_word(old_model[name]) and _is_word(now["model"].get(name)):
            old_model[name] = now["model"][name]
    changes = [*_model_changes(old_model, now["model"])]
    for name in ("readout", "training"):
        default = _defaults(TrainConfig.model_fields[name].annotation)
        changes += _section_changes(name, _filled(default, before.get(name) or {}), now[name])
    changes += _target_changes(before.get("targets") or [], now["targets"])
    return [change for change in changes if change.effect != "content"]


def refuse(changes: list[Change]) -> None:
    """Stop at the keys that a resumed run cannot change.

    Raises:
        KanMdError: there is one.
    """
    refused = [change for change in changes if change.effect == "refused"]
    if refused:
        first = refused[0]
        others = "".join(f"; likewise {change}" for change in refused[1:])
        raise user_error(
            f"{first.key} of a resumed run",
            found=_text(first.now),
            allowed=_text(first.before) + others,
            remedy="put it back, or start a new run",
        )


def _section_changes(
    prefix: str, before: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[Change]:
    for key, new in now.items():
        name, old = f"{prefix}.{key}", before.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _section_changes(name, old, new)
        elif not same(old, new):
            yield Change(name, old, new, effect_of(name))


def _model_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    """Keys of section model; its types are compared where they are known, after the data."""
    if before["backbone"] != now["backbone"]:
        yield Change("model.backbone", before["backbone"], now["backbone"], "refused")
        return
    differences = find_differences(now["backbone"], now, before, besides={"type_names"})
    for difference in differences:
        if _WORDS_OF_BEFORE.get(difference.key) == (difference.theirs, difference.ours):
            continue
        # A key that is new in this version of kan-md has its default in the older run.
        if difference.theirs == ABSENT and difference.key in _defaults_of_model(now):
            continue
        yield Change(f"model.{difference.key}", difference.theirs, difference.ours, "refused")


def _defaults_of_model(now: Mapping[str, Any]) -> set[str]:
    defaults = _defaults(TrainConfig.model_fields["model"].annotation)
    return {key for key, value in defaults.items() if same(value, now.get(key))}


def _target_changes(before: list[Mapping], now: list[Mapping]) -> Iterator[Change]:
    """Tensors to learn: their weights take effect, other tensors are another model."""
    outside = ("weight", "unit")
    kinds = [
        [{k: v for k, v in target.items() if k not in outside} for target in targets]
        for targets in (before, now)
    ]
    if not same(*kinds):
        yield Change("targets", kinds[0], kinds[1], "refused")
        return
    for old, new in zip(before, now, strict=True):
        for key in outside:
            if not same(old.get(key), new.get(key)):
                effect = effect_of(f"targets.{key}")
                yield Change(f"targets.{new['name']}.{key}", old.get(key), new.get(key), effect)


def _defaults(section: type[BaseModel]) -> dict[str, Any]:
    """Defaults of a section as plain data; keys without one are absent."""
    found = {}
    for name, field in section.model_fields.items():
        if field.is_required():
            continue
        value = field.get_default(call_default_factory=True)
        found[name] = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return found


def _filled(default: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values over defaults, section by section: an older run may lack what is new since."""
    found = {**default, **values}
    for key, inner in default.items():
        if isinstance(inner, Mapping) and isinstance(values.get(key), Mapping):
            found[key] = _filled(inner, values[key])
    return found


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value != "zero"


def _text(value: object) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
