"""The files that a run goes on from: written whole, the one before kept, read with a way out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import CheckpointIO

from kan_md.errors import KanMdError, user_error
from kan_md.files import written_whole
from kan_md.model.checkpoint import saved_bytes

FOLDER = "checkpoints"
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
BEST = "best.ckpt"
CONFIG_FILE = "config.yaml"

_RECORD = "kan_md"
"""Entry of a checkpoint with what kan-md itself has to know, see :class:`SavedRun`."""

_SECONDS_BETWEEN_FLUSHES = 10.0
"""Waiting for the disk takes tens of milliseconds, as long as an epoch of a small model. What a
power failure costs is this much training; what a killed process costs is nothing."""


class CheckpointFiles(CheckpointIO):
    """Reads and writes Lightning's checkpoints.

    Args:
        after_first: called when the first ``last.ckpt`` of this process is there: what belongs to
            it in the folder changes only now.
    """

    def __init__(self, after_first: Callable[[], None] = lambda: None) -> None:
        self.seconds = 0.0
        self._after_first = after_first
        self._begun = False
        self._resumed: Mapping[str, Any] | None = None
        self._flushed: dict[str, float] = {}

    def resume_from(self, content: Mapping[str, Any]) -> None:
        """Give this to Lightning in the place of the file that it asks for."""
        self._resumed = content

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint whole; of ``last.ckpt`` the one before stays as ``previous.ckpt``.

        Raises:
            KanMdError: it cannot be written; the older ones are still there.
        """
        start = time.monotonic()
        path = Path(path)
        content = saved_bytes(checkpoint)
        due = start - self._flushed.get(path.name, -1e9) > _SECONDS_BETWEEN_FLUSHES
        keep = path.with_name(PREVIOUS) if path.name == LAST else None
        with written_whole(path, make_folder=True, durable=due, keep=keep) as temporary:
            temporary.write_bytes(content)
        if due:
            self._flushed[path.name] = time.monotonic()
        if path.name == LAST and not self._begun:
            self._begun = True
            self._after_first()
        self.seconds = time.monotonic() - start

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Give what a run was told to go on from, else the file's content on the CPU."""
        if self._resumed is not None:
            return dict(self._resumed)
        return torch.load(path, map_location="cpu", weights_only=False)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)


class RunRecord(Callback):
    """Puts what :class:`SavedRun` has to know into every checkpoint.

    Args:
        record: plain data.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = dict(record)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the record."""
        checkpoint[_RECORD] = self.record


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """A run that can be gone on with.

    Attributes:
        content: Lightning's checkpoint.
        config: the configuration that it was trained with, as plain data.
        arguments: of :func:`kan_md.backbones.build.build_model`.
        path: of the file.
        data: fingerprint of the data, see :mod:`kan_md.train.fingerprint`; empty if unknown.
        learned: names of the labels that were in a loss.
        statistics: those of the data that another model had a share in.
        settings: of the command line, see :mod:`kan_md.config.overrides`.
        source: what weights were taken from at the start.
        notes: lines to show.
    """

    content: dict[str, Any]
    config: dict[str, Any]
    arguments: dict[str, Any]
    path: Path
    data: dict[str, Any] = field(default_factory=dict)
    learned: list[str] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)
    settings: list[dict[str, Any]] = field(default_factory=list)
    source: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def epochs(self) -> int:
        """Number of epochs that are done."""
        return self.content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]

    @property
    def seconds(self) -> float:
        """Wall-clock time that the run has taken, s."""
        state = self.content["callbacks"]["Budget"]
        return state.get("wall", state["seconds"])


@contextmanager
def told_to_resume(folder: Path) -> Iterator[None]:
    """Say with what goes wrong in writing that the run can be gone on with, where it can."""
    try:
        yield
    except KanMdError as error:
        if isinstance(error.__cause__, OSError) and can_be_resumed(folder):
            raise KanMdError(f"{error}, then go on with --resume") from error.__cause__
        raise


def can_be_resumed(folder: Path) -> bool:
    """Whether there is something to go on from."""
    return any((folder / FOLDER / name).is_file() for name in (LAST, PREVIOUS))


def read_saved_run(folder: Path) -> SavedRun:
    """Read ``last.ckpt``, or the one before where it is damaged or missing.

    Raises:
        KanMdError: there is none that can be read.
    """
    notes: list[str] = []
    for name in (LAST, PREVIOUS):
        path = folder / FOLDER / name
        content = _read(path)
        if content is None:
            notes.append(f"{path} is {'damaged' if path.is_file() else 'missing'}")
            continue
        if notes:
            notes = [f"{'; '.join(notes)}: going on from the one before, {name}"]
        record = content.get(_RECORD, {})
        if not record:
            notes.append("a run of an earlier version: whether the data are the same is not known")
        return SavedRun(
            content=content,
            config=record.get("config") or _kept_config(folder),
            arguments=dict(content["hyper_parameters"]["model"]["arguments"]),
            path=path,
            data=record.get("data", {}),
            learned=record.get("learned", []),
            statistics=record.get("statistics", {}),
            settings=record.get("settings", []),
            source=record.get("source", {}),
            notes=tuple(notes),
        )
    raise user_error(
        "nothing that can be resumed",
        found="; ".join(notes),
        allowed=None,
        remedy="start again with --overwrite",
    )


def read_best(folder: Path) -> dict[str, Any] | None:
    """Content of ``best.ckpt``; None where it is missing or damaged."""
    return _read(folder / FOLDER / BEST)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = torch.load(path, map_location="cpu", weights_only=False)
    except Exception:  # a damaged pickle can fail in any way; the caller says what follows
        return None
    try:
        _ = content["hyper_parameters"]["model"]["arguments"], content["loops"]["fit_loop"]
    except (KeyError, TypeError, IndexError):
        return None  # of another program
    return content


def _kept_config(folder: Path) -> dict[str, Any]:
    """Configuration beside checkpoints of a version that did not put it into them."""
    try:
        content = yaml.safe_load((folder / CONFIG_FILE).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict):
        raise user_error(
            f"{folder / CONFIG_FILE} of the run",
            found="no configuration",
            allowed=None,
            remedy="start again with --overwrite",
        )
    return content
