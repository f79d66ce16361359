"""Loading libkan_md_ops into this process."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from kan_md.errors import KanMdError
from kan_md.lammps.cache import newest_plugin_dir

LIBRARY_NAME = "libkan_md_ops.so"
OVERRIDE = "KAN_MD_OPS"
"""Environment variable with the path of a library to use instead of the cache's."""


def library_path() -> Path:
    """Where the library is, or would be after ``kan-md build``."""
    override = os.environ.get(OVERRIDE)
    return Path(override) if override else newest_plugin_dir() / LIBRARY_NAME


def is_built() -> bool:
    """Whether :func:`load` would find a library."""
    return library_path().is_file()


def load() -> None:
    """Register the operators as ``torch.ops.kan_md``; a second call does nothing.

    Raises:
        KanMdError: the library was not built, or it was built for another torch.
    """
    if _is_registered():
        return
    path = library_path()
    if not path.is_file():
        raise KanMdError(f"no operator library, got no {path}; run: kan-md build")
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise KanMdError(
            f"operator library {path} does not fit torch {torch.__version__}, got {error}; "
            "run: kan-md build --force"
        ) from error


def _is_registered() -> bool:
    return hasattr(torch.ops.kan_md, "convolution")
