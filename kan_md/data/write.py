"""Writing structures: a file appears complete or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import ase.io
from ase import Atoms

from kan_md.errors import user_error


def write_frames(frames: Sequence[Atoms], path: str | Path, *, overwrite: bool = False) -> Path:
    """Write structures with their labels as extended XYZ.

    Args:
        frames: structures; labels are taken from their calculators.
        path: file to write.
        overwrite: replace an existing file.

    Raises:
        KanMdError: the file exists, or its folder is missing or not writable.
    """
    path = Path(path)
    check_writable(path, overwrite=overwrite)
    handle, name = tempfile.mkstemp(suffix=".xyz", prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w") as file:
            ase.io.write(file, list(frames), format="extxyz")
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def check_writable(path: str | Path, *, overwrite: bool) -> None:
    """Refuse an output file before work is spent on it.

    Raises:
        KanMdError: the file exists and may not be replaced, or its folder cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise user_error(
            f"output file {path}", found="a folder", allowed=None, remedy="choose another name"
        )
    if path.exists() and not overwrite:
        raise user_error(
            f"output file {path}",
            found="an existing file",
            allowed=None,
            remedy="choose another name or give --overwrite",
        )
    if not is_writable(path.parent):
        raise user_error(
            f"output file {path}",
            found=f"folder {path.parent} that is missing or not writable",
            allowed=None,
            remedy="choose a folder that exists and is writable",
        )


def is_writable(folder: str | Path) -> bool:
    """Whether a folder is there and takes files; tried, as permissions alone do not say it."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
