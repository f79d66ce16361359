"""Reading labelled structures from whatever people keep them in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.formats import UnknownFileTypeError

from kan_md.errors import user_error

LABEL_KEYS = {
    "energy": "energy",
    "forces": "forces",
    "stress": "stress",
    "virial": "virial",
    "weight": "config_weight",
}
"""Names of the labels in a file unless told otherwise."""


def read_frames(
    paths: str | Path | Sequence[str | Path], keys: Mapping[str, str] | None = None
) -> list[Atoms]:
    """Read structures with whatever labels they have.

    Args:
        paths: one file or several: extended XYZ, another format of ASE, or nequip's LMDB.
        keys: names of ``energy``, ``forces``, ``stress``, ``virial`` and ``weight`` in the files.

    Returns:
        Structures in the order of the files; energy, forces and stress (ASE's sign) in a
        calculator; ``info["source"]`` says which frame of which file each one is.

    Raises:
        KanMdError: a file is missing, empty or unreadable.
    """
    names = [paths] if isinstance(paths, (str, Path)) else list(paths)
    keys = {**LABEL_KEYS, **(keys or {})}
    frames = []
    for path in map(Path, names):
        if not path.is_file():
            raise user_error(
                "data file not found", found=path, allowed=None, remedy="check its path"
            )
        before = len(frames)
        for index, atoms in enumerate(_read(path)):
            _collect_labels(atoms, keys)
            atoms.info["source"] = f"{path.name}, frame {index}"
            frames.append(atoms)
        if len(frames) == before:
            raise user_error(
                f"data file {path}",
                found="no structures",
                allowed="one or more",
                remedy="give a file with structures",
            )
    return frames


def check_keys(frames: Sequence[Atoms], keys: Mapping[str, str]) -> None:
    """Refuse names of labels that a user gives and no structure has.

    Args:
        frames: as :func:`read_frames` gives them.
        keys: what was given to it.

    Raises:
        KanMdError: a name is nowhere.
    """
    for label, name in keys.items():
        places = (
            place
            for atoms in frames
            for place in (atoms.info, atoms.arrays, atoms.calc.results if atoms.calc else {})
        )
        if not any(name in place for place in places):
            there = sorted({key for atoms in frames for key in (*atoms.info, *atoms.arrays)})
            hidden = {"source", "numbers", "positions"}
            raise user_error(
                f"name of {label}",
                found=f"{name}, which no structure has",
                allowed=", ".join(key for key in there if key not in hidden) or "none",
                remedy=f"name what the file calls {label}",
            )


def _read(path: Path) -> Iterator[Atoms]:
    if path.stat().st_size == 0:
        return
    if path.suffix in {".lmdb", ".mdb"}:
        from kan_md.data.lmdb import read_lmdb

        yield from read_lmdb(path)
        return
    try:
        yield from ase.io.read(path, ":")
    except (
        UnknownFileTypeError,
        ValueError,
        IndexError,
        KeyError,
        OSError,
        StopIteration,
        AssertionError,
    ) as error:
        raise user_error(
            f"data file {path} cannot be read",
            found=f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": "),
            allowed="extended XYZ, another format of ASE, nequip's LMDB",
            remedy="check that the file is whole",
        ) from error


def _collect_labels(atoms: Atoms, keys: Mapping[str, str]) -> None:
    """Put energy, forces and stress, wherever they are, into one calculator."""
    found = dict(atoms.calc.results) if atoms.calc is not None else {}
    labels = {}
    for name in ("energy", "forces", "stress"):
        places = (atoms.arrays,) if name == "forces" else (atoms.info,)
        # A name of the user's own goes before what ASE understood by itself.
        order = (found, *places) if keys[name] == name else (*places, found)
        value = next((place[keys[name]] for place in order if keys[name] in place), None)
        if value is not None:
            labels[name] = value
    virial = found.get(keys["virial"], atoms.info.get(keys["virial"]))
    if "stress" not in labels and virial is not None and atoms.cell.rank == 3:
        labels["stress"] = -np.asarray(virial, dtype=float).reshape(-1) / atoms.get_volume()
    if "energy" in labels:
        labels["energy"] = float(np.asarray(labels["energy"]).reshape(-1)[0])
    if "stress" in labels:
        labels["stress"] = _voigt(np.asarray(labels["stress"], dtype=float).reshape(-1))
    if keys["weight"] in atoms.info:
        atoms.info["config_weight"] = float(atoms.info[keys["weight"]])
    atoms.calc = SinglePointCalculator(atoms, **labels) if labels else None


def _voigt(stress: np.ndarray) -> np.ndarray:
    """Turn 9 numbers into ASE's xx, yy, zz, yz, xz, xy; 6 are so already."""
    if stress.size == 9:
        full = stress.reshape(3, 3)
        full = (full + full.T) / 2
        return full[(0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]
    return stress
