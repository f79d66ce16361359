"""The sizes that are compared, and the runs that train them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kan_md.config.schema import ModelConfig, TrainConfig
from kan_md.config.sizes import SIZES, SMALL_ALLEGRO, size_content
from kan_md.errors import user_error
from kan_md.runs import Run

OWN = "own"
"""Stands for model and readout of the configuration itself."""
_OF_A_SIZE = {"backbone", "avg_num_neighbors"}  # the norm suits one backbone and not the others
OF_THE_DATA = tuple(name for name in ModelConfig.model_fields if name not in _OF_A_SIZE)
"""Keys of the model section that belong to the data rather than to a size: they stay."""

_ALLEGRO: dict[str, Any] = {
    "model": SMALL_ALLEGRO | {"r_max": 5.0},
    "readout": {"kind": "kan", "basis": "gaussian", "fit_grid": {}, "base": "none"},
}
RUNGS: dict[str, Callable[[], dict[str, Any]]] = {
    **{size: lambda size=size: size_content(size) for size in SIZES},
    "allegro": lambda: _ALLEGRO,
}
"""By name, in the order in which they are trained: where to get sections model and readout from."""
DEFAULT = tuple(RUNGS)


def parse_names(text: str) -> tuple[str, ...]:
    """Names of sizes, divided by commas; each counts once.

    Raises:
        KanMdError: there is none, or no size has that name.
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in (*RUNGS, OWN):
            raise user_error(
                "unknown size",
                found=repr(name),
                allowed=", ".join((*RUNGS, f"{OWN} (the model of the configuration)")),
                remedy=f"e.g. --size {','.join(DEFAULT)}",
            )
    return names


def check_config(config: TrainConfig) -> None:
    """Refuse what makes no sense for several models at once.

    Raises:
        KanMdError: the model predicts tensors, or its weights begin with those of another.
    """
    if config.targets:
        raise user_error(
            "a front is one of potentials",
            found="a configuration with targets",
            allowed=None,
            remedy="remove section targets and set model.backbone to that of a potential",
        )
    if config.training.init_from is not None:
        raise user_error(
            "training.init_from with models of several sizes",
            found=config.training.init_from,
            allowed=None,
            remedy="remove it: weights fit one size only",
        )


def runs_of(config: TrainConfig, names: Sequence[str]) -> list[Run]:
    """The trainings of a ladder: a configuration with the model and readout of each size.

    Data and training stay, and of the model section what belongs to the data: :data:`OF_THE_DATA`.

    Args:
        config: checked, with paths that hold from the working directory.
        names: of sizes, see :func:`parse_names`.
    """
    content = config.model_dump(mode="json", exclude_unset=True)
    for part in ("train", "val", "test"):
        paths = getattr(config.data, part)
        if paths is not None:
            content["data"][part] = [str(path.absolute()) for path in paths]
    kept = {key: value for key, value in content["model"].items() if key in OF_THE_DATA}
    runs = []
    for name in names:
        changed = {}
        if name != OWN:
            rung = RUNGS[name]()
            changed = {"model": {**rung["model"], **kept}, "readout": rung["readout"]}
        runs.append(Run(name, {**content, **changed}, Path()))
    return runs


def replaced_keys(config: TrainConfig) -> list[str]:
    """Keys of the model section that the sizes have values of their own for, or do without."""
    return [key for key in config.model.model_dump(exclude_unset=True) if key not in OF_THE_DATA]
