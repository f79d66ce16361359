"""Where built plug-ins live, and whether one is whole; imports nothing that is slow."""

from __future__ import annotations

import hashlib
import json
import os
import platform
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


def processor_key() -> str:
    """Short name of this machine's kind of processor, for which the operators are compiled."""
    text = platform.machine() + (_processor_flags() or platform.processor())
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def is_whole(folder: Path) -> bool:
    """Whether a folder holds a build whose files are as they were written."""
    try:
        files = json.loads((folder / RECORD).read_text())["files"]
        return PLUGIN_NAME in files and all(
            file_digest(folder / name) == digest for name, digest in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError):  # absent, cut, or of an older kan-md
        return False


def file_digest(path: Path) -> str:
    """What :func:`is_whole` compares."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _processor_flags() -> str | None:
    """Line of instruction sets of the first core; the file is long on large machines."""
    try:
        with Path("/proc/cpuinfo").open(errors="replace") as lines:
            return next((line for line in lines if line.startswith(("flags", "Features"))), None)
    except OSError:
        return None
