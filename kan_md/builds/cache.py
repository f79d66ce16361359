"""Where built plug-ins live, and whether one is whole; imports nothing that is slow."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

PLUGIN_NAME = "kanmdplugin.so"
"""LAMMPS loads files that end in ``plugin.so`` from ``LAMMPS_PLUGIN_PATH``."""
RECORD = "build.json"
"""What a build was made of, and the digests of its files."""


def cache_dir() -> Path:
    """The user's cache of builds: ``KAN_MD_CACHE``, else ``XDG_CACHE_HOME/kan-md``, else
    ``~/.cache/kan-md``.
    """
    explicit = os.environ.get("KAN_MD_CACHE")
    if explicit:
        return Path(explicit).absolute()
    xdg = os.environ.get("XDG_CACHE_HOME")
    home = os.environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111 - never raises
    return (Path(xdg) if xdg else Path(home) / ".cache").absolute() / "kan-md"


def shared_dir() -> Path:
    """Builds that belong to this Python environment and serve all its users, who may not be able to
    write there.
    """
    return Path(sys.prefix) / "share" / "kan-md" / "builds"


def is_whole(folder: Path) -> bool:
    """Whether a folder holds a build whose files are as they were written."""
    try:
        files = json.loads((folder / RECORD).read_text())["files"]
        return PLUGIN_NAME in files and all(
            file_digest(folder / name) == digest for name, digest in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError):  # absent, cut, or of an older kan-md
        return False


def made_of(folder: Path) -> dict[str, str] | None:
    """What the record of a build says that it was made of; None where there is none to read."""
    try:
        record = json.loads((folder / RECORD).read_text())["made_of"]
    except (OSError, ValueError, KeyError, TypeError):  # absent, cut, or of another kan-md
        return None
    return record if isinstance(record, dict) else None


def file_digest(path: Path) -> str:
    """What :func:`is_whole` compares."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
