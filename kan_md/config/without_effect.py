"""Settings that say something else than by default, though they change nothing here."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from kan_md.config.schema import TrainConfig

_OF_POTENTIALS = {
    "data": ("missing_stress", "max_force", "isolated_atoms"),
    "model": ("per_type_energy_shifts", "per_type_energy_scales"),
    "training.loss": ("energy", "forces", "stress", "energy_per"),
}
"""What only potentials have."""

_SCHEDULES = {
    "warmup": ("cosine", "one_cycle", "exponential", "constant"),
    "final": ("cosine", "one_cycle", "exponential"),
    "factor": ("plateau",),
    "patience": ("plateau",),
}
"""Names of the schedules that a key has an effect on."""


def settings_without_effect(config: TrainConfig) -> list[str]:
    """Names of keys that are given in vain, ``section.key``; those of the readout are refused.

    Args:
        config: whole.
    """
    return [
        name for section, key in _given_in_vain(config) if (name := _changed(config, section, key))
    ]


def _given_in_vain(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """Keys without effect beside the others, by section, whether they are given or not."""
    training = config.training
    if config.targets:
        yield from ((section, key) for section, keys in _OF_POTENTIALS.items() for key in keys)
    if training.init_from is None:
        yield "training", "fresh_readout"
    if config.data.replay is None:
        yield "data", "replay_size"
    if training.loss.function != "huber":
        yield "training.loss", "delta"
    for key, names in _SCHEDULES.items():
        if training.schedule.name not in names:
            yield "training.schedule", key
    if "val" in config.data.divided:
        yield "data.split", "seed" if config.data.split.method == "block" else "blocks"


def _changed(config: TrainConfig, path: str, key: str) -> str | None:
    """The key's name if it has another value than by default."""
    section: BaseModel = config
    for name in path.split("."):
        section = getattr(section, name)
    default = type(section).model_fields[key].default
    return None if getattr(section, key) == default else f"{path}.{key}"
