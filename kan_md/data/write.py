"""Writing structures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ase.io
from ase import Atoms

from kan_md.files import check_writable, written_whole


def write_frames(frames: Sequence[Atoms], path: str | Path, *, overwrite: bool = False) -> Path:
    """Write structures with their labels as extended XYZ.

    Args:
        frames: structures; labels are taken from their calculators.
        path: file to write; it appears whole or not at all.
        overwrite: replace an existing file.

    Raises:
        KanMdError: the file exists, its folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    check_writable(path, overwrite=overwrite)
    with written_whole(path) as temporary, temporary.open("w") as file:
        ase.io.write(file, list(frames), format="extxyz")
    return path
