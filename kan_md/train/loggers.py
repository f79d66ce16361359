"""Where else the numbers of every epoch go: TensorBoard, Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from kan_md.errors import user_error

_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
"""Packages of which one is needed, by the logger's name."""


def check_loggers(names: Sequence[str]) -> None:
    """Refuse loggers that are not installed.

    Raises:
        KanMdError: a package is missing; says what to install.
    """
    for name in names:
        packages = _PACKAGES.get(name, ())
        if packages and not any(find_spec(package) for package in packages):
            raise user_error(
                f"training.loggers: {name} needs the package {packages[0]}",
                found="not installed",
                allowed=None,
                remedy=f"pip install {packages[0]}, or take {name} out",
            )


def make_loggers(names: Sequence[str], folder: Path) -> list[Logger]:
    """Lightning's loggers by their names; ``csv`` is the run's own log.csv.

    Args:
        names: see ``training.loggers``.
        folder: of the run: TensorBoard's files are in ``tensorboard`` there.
    """
    made: list[Logger] = []
    if "tensorboard" in names:
        made.append(TensorBoardLogger(folder, name="tensorboard", version=""))
    if "wandb" in names:
        made.append(WandbLogger(name=folder.absolute().name, project="kan-md", save_dir=folder))
    return made


def logged_names(row: dict[str, float]) -> dict[str, float]:
    """A row of log.csv as loggers group it: ``val_forces_mae`` is ``val/forces_mae``."""
    found = {}
    for name, value in row.items():
        part, _, rest = name.partition("_")
        found[f"{part}/{rest}" if part in ("train", "val") else name] = value
    return found
