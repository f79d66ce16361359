"""Reading labelled structures from whatever people keep them in."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

from ase import Atoms

from kan_md.data.formats import read_structures
from kan_md.data.label_report import LabelReport
from kan_md.data.label_search import LABEL_KEYS
from kan_md.data.labels import collect_labels
from kan_md.errors import user_error


def read_frames(
    paths: str | Path | Sequence[str | Path],
    keys: Mapping[str, str] | None = None,
    *,
    report: LabelReport | None = None,
) -> list[Atoms]:
    """Read structures with whatever labels they have.

    Args:
        paths: one file or several, or patterns like ``data/*.xyz``: extended XYZ, another format
            of ASE, npz, or nequip's LMDB.
        keys: names of ``energy``, ``forces``, ``stress``, ``virial`` and ``weight`` in the files.
        report: gets what was noticed about the labels.

    Returns:
        Structures in the order of the files; energy, forces and stress (ASE's sign) in a
        calculator; ``info["source"]`` says which frame of which file each one is.

    Raises:
        KanMdError: a file is missing, empty or unreadable, or a label is no number.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    files = [path for name in given for path in matching_files(Path(name))]
    keys = {**LABEL_KEYS, **(keys or {})}
    report = LabelReport() if report is None else report
    frames = []
    for path in files:
        before = len(frames)
        for index, atoms in enumerate(read_structures(path)):
            atoms.info["source"] = f"{path.name}, frame {index}"
            collect_labels(atoms, keys, report)
            frames.append(atoms)
        if len(frames) == before:
            raise user_error(
                f"data file {path}",
                found="no structures",
                allowed="one or more",
                remedy="give a file with structures",
            )
    return frames


def matching_files(path: Path) -> list[Path]:
    """The file, or those that a pattern means, by name."""
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - no hidden files
    if not found:
        raise user_error(
            f"data files {path}",
            found="none of that pattern",
            allowed=None,
            remedy="check the path",
        )
    return [Path(name) for name in found]
