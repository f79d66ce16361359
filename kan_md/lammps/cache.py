"""Where built plug-ins live. Standard library only: ``lmp`` imports this at every start."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

PLUGIN_NAME = "kanmdplugin.so"
"""LAMMPS loads files that end in ``plugin.so`` from ``LAMMPS_PLUGIN_PATH``."""


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
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.is_file() else platform.processor()
    flags = next((line for line in text.splitlines() if line.startswith("flags")), text)
    return hashlib.sha256((platform.machine() + flags).encode()).hexdigest()[:8]


def current_link() -> Path:
    """Symbolic link to the build in use on this kind of processor."""
    return cache_dir() / f"current-{processor_key()}"


def newest_plugin_dir() -> Path:
    """Directory of the plug-in in use, or the cache directory where there is none."""
    current = current_link()
    return current if (current / PLUGIN_NAME).is_file() else cache_dir()
