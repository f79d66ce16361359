"""The folder of a run: what may be there, and what is put there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from kan_md.config.schema import TrainConfig
from kan_md.errors import user_error
from kan_md.files import is_writable, write_text
from kan_md.train.checkpoints import CONFIG_FILE, FOLDER, can_be_resumed

MODEL_FILE = "model.pth"
RESULT_FILE = "metrics.json"
"""Written last: its presence says that the run is finished."""
LOG_FILE = "log.csv"
CURVE_FILE = "learning_curve.png"


def check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder before any work.

    Raises:
        KanMdError: there is nothing to resume, a run that is not to be replaced, or no place.
    """
    if resume and overwrite:
        raise user_error(
            "a run is continued or replaced",
            found="--resume with --overwrite",
            allowed="one of them",
            remedy="leave one out",
        )
    if folder.exists() and not folder.is_dir():
        raise user_error(
            "output folder", found=f"the file {folder}", allowed=None, remedy="change --output"
        )
    there = can_be_resumed(folder)
    if resume and not there:
        raise user_error(
            "nothing to resume",
            found=f"no checkpoint in {folder / FOLDER}",
            allowed=None,
            remedy="start without --resume",
        )
    if not resume and not overwrite and (there or (folder / MODEL_FILE).exists()):
        finished = (folder / RESULT_FILE).exists()
        raise user_error(
            f"output folder {folder}",
            found=f"{'a finished' if finished else 'an unfinished'} run",
            allowed=None,
            remedy="give --overwrite, another --output" + ("" if finished else ", or --resume"),
        )
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not is_writable(parent):
        raise user_error(
            f"output folder {folder}",
            found="a place that cannot be written",
            allowed=None,
            remedy="change --output",
        )


def clear_folder(folder: Path) -> None:
    """Remove the run that is replaced, only now that the new one can start."""
    old = [folder / name for name in (MODEL_FILE, RESULT_FILE, LOG_FILE, CURVE_FILE)]
    for path in [*old, *(folder / FOLDER).glob("*.ckpt")]:
        path.unlink(missing_ok=True)


def write_config(given: TrainConfig, config: TrainConfig, folder: Path) -> None:
    """Keep a configuration, with paths that hold wherever it is read from.

    Args:
        given: by the user.
        config: without losses of labels that the data do not have; what was not asked for there
            is left to its default again.
        folder: of the run.
    """
    content = given.model_dump(mode="json")
    losses = [content["training"]["loss"], *(s["loss"] for s in content["training"]["stages"])]
    used = [config.training.loss, *(stage.loss for stage in config.training.stages)]
    for kept, loss in zip(losses, used, strict=True):
        for name in [n for n in kept if kept[n] != getattr(loss, n)]:
            del kept[name]
    for section, key in [("data", part) for part in ("train", "val", "test", "replay")]:
        paths = content[section][key]
        content[section][key] = None if paths is None else [str(Path(p).absolute()) for p in paths]
    if given.training.init_from is not None:
        content["training"]["init_from"] = str(given.training.init_from.absolute())
    write_text(folder / CONFIG_FILE, yaml.safe_dump(content, sort_keys=False))


def read_results(folder: Path) -> dict[str, Any] | None:
    """What a finished run wrote; None where there is nothing, or nothing whole."""
    try:
        found = json.loads((folder / RESULT_FILE).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and (folder / MODEL_FILE).is_file() else None
