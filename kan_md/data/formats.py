"""Structures out of files: extended XYZ with its dialects, npz, nequip's LMDB, what ASE reads."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.data import atomic_numbers
from ase.io.extxyz import key_val_str_to_dict
from ase.io.formats import UnknownFileTypeError, filetype, open_with_compression

from kan_md.data.numbers import fortran_to_c
from kan_md.errors import KanMdError, user_error
from kan_md.model.file_kind import MODELS, recognise

_PREFIX = "kan_md:"
_SPECIAL = re.compile(r"(?<!\S)(stress|virial)(?=\s*=)")
_HEADINGS = re.compile(r"(?<!\S)(lattice|properties|pbc)(?=\s*=)", re.IGNORECASE)
_NAMES = {"lattice": "Lattice", "properties": "Properties", "pbc": "pbc"}
"""Entries that say what a frame is; other programs do not mind capitals."""
_MOST_ATOMS = 10_000_000
_LENGTHS = {"", "ang", "angstrom", "å", "a"}
_ENERGIES = {"", "ev"}
_ARRAYS = {
    "numbers": ("z", "numbers", "atomic_numbers", "nuclear_charges"),
    "positions": ("R", "positions", "pos", "coords", "coordinates"),
    "energy": ("E", "energy", "energies", "total_energy"),
    "forces": ("F", "forces", "force"),
    "stress": ("stress", "stresses"),
    "virial": ("virial", "virials"),
    "cell": ("cell", "cells"),
    "pbc": ("pbc",),
}
"""Names of arrays in npz files: sGDML's, rMD17's, and ASE's."""


def read_structures(path: Path) -> Iterator[Atoms]:
    """Read a file frame by frame, with the entries of extended XYZ as they are written.

    Raises:
        KanMdError: the file is missing, a folder, damaged, or of no known kind; the message says
            how many structures could be read before.
    """
    _check_is_file(path)
    if path.stat().st_size == 0:
        return
    structures, number = None, 0
    while True:
        try:
            structures = structures or _reader(path)
            atoms = next(structures, None)
        except (KanMdError, MemoryError):
            raise
        except Exception as error:  # a damaged file can fail in any way, in any of ASE's readers
            raise _unreadable(path, number, error) from error
        if atoms is None:
            return
        yield atoms
        number += 1


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        inside = sorted(child.name for child in path.iterdir() if child.is_file())[:5]
        example = next((name for name in inside if name in ("OUTCAR", "vasprun.xml")), None)
        raise user_error(
            f"data file {path}",
            found=f"a folder with {', '.join(inside) or 'no files'}",
            allowed="a file",
            remedy=f"name a file in it, e.g. {path / (example or (inside or ['frames.xyz'])[0])}",
        )
    if not path.exists():
        raise user_error("data file not found", found=path, allowed=None, remedy="check its path")


def _reader(path: Path) -> Iterator[Atoms]:
    if path.suffix in {".lmdb", ".mdb"}:
        from kan_md.data.lmdb import read_lmdb

        return iter(read_lmdb(path))
    if path.suffix == ".npz":
        return _read_npz(path)
    kind = filetype(str(path))
    if kind == "extxyz":
        return _read_extxyz(path)
    if kind in ("db", "json"):
        return _read_database(path)
    return iter(ase.io.iread(path, slice(None), do_not_split_by_at_sign=True))


def _read_extxyz(path: Path) -> Iterator[Atoms]:
    """Extended XYZ; numbers like 1.0D+01 are tried once it fails without."""
    read = partial(ase.io.iread, index=slice(None), format="extxyz", properties_parser=_entries)
    number = 0
    try:
        with _open_text(path) as file:
            _check_first_number(file)
            for atoms in read(file):
                yield _with_plain_names(atoms)
                number += 1
            return
    except ValueError as error:
        with _open_text(path) as file:
            text = file.read()
        changed = fortran_to_c(text)
        if changed == text:
            raise error
    for atoms in list(read(io.StringIO(changed)))[number:]:
        yield _with_plain_names(atoms)


def _check_first_number(file: io.TextIOWrapper) -> None:
    """Refuse what begins with a number that is none of atoms: ASE would look for all of them."""
    first = file.readline().strip()
    if first.lstrip("-").isdecimal() and not 0 <= int(first) <= _MOST_ATOMS:
        raise ValueError(f"a structure of {first} atoms")
    file.seek(0)


def _open_text(path: Path) -> io.TextIOWrapper:
    """A text file in UTF-8 whatever the locale, packed or not, without the mark at its beginning.

    Letters of other encodings, which only comments have, become question marks.
    """
    packed = open_with_compression(str(path), "rb")
    return io.TextIOWrapper(packed, encoding="utf-8-sig", errors="replace")


def _entries(line: str) -> dict[str, object]:
    """The comment line, with names that keep ASE from judging the values of labels."""
    line = _HEADINGS.sub(lambda found: _NAMES[found[1].lower()], line)
    entries = key_val_str_to_dict(_SPECIAL.sub(_PREFIX + r"\1", line))
    if "cell" in {name.lower() for name in entries} and "Lattice" not in entries:
        raise ValueError("a frame has an entry `cell`, but its cell must be called Lattice")
    return {
        _PREFIX + name if name in all_properties else name: value for name, value in entries.items()
    }


def _with_plain_names(atoms: Atoms) -> Atoms:
    for name in [name for name in atoms.info if name.startswith(_PREFIX)]:
        atoms.info[name.removeprefix(_PREFIX)] = atoms.info.pop(name)
    return atoms


def _read_database(path: Path) -> Iterator[Atoms]:
    """ASE's databases; what was stored beside a structure goes into ``info``."""
    with ase.db.connect(str(path), serial=True) as database:
        for row in database.select():
            atoms = row.toatoms(add_additional_information=True)
            beside = atoms.info.pop("key_value_pairs", {}), atoms.info.pop("data", {})
            for entries in beside:
                for name, value in entries.items():
                    atoms.info.setdefault(name, value)
            yield atoms


def _read_npz(path: Path) -> Iterator[Atoms]:
    """Arrays over frames under the names of sGDML, rMD17 or ASE; elements are those of all."""
    with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
        _check_unit(path, file, "r_unit", _LENGTHS, "Å")
        _check_unit(path, file, "e_unit", _ENERGIES, "eV")
        arrays = {
            name: file[found]
            for name, names in _ARRAYS.items()
            if (found := next((other for other in names if other in file.files), None))
        }
        names = ", ".join(file.files)
        if "e_unit" not in file.files and {"E", "old_energies"} & set(file.files):
            raise user_error(
                f"unit of the energies in {path}",
                found="none, and MD17 and rMD17 are in kcal/mol",
                allowed="e_unit",
                remedy="convert energies and forces to eV and add e_unit='eV' to the file",
            )
    for name in ("numbers", "positions"):
        if name not in arrays:
            allowed = " or ".join(_ARRAYS[name])
            raise user_error(
                f"{path} without {name}", found=names, allowed=allowed, remedy="rename the array"
            )
    numbers, positions = arrays.pop("numbers"), arrays.pop("positions")
    if positions.ndim == 2:
        positions = positions[None]
    for index, frame in enumerate(positions):
        atoms = Atoms(numbers if numbers.ndim == 1 else numbers[index], positions=frame)
        for name in ("cell", "pbc"):
            if name in arrays:
                whole = arrays[name].ndim == (2 if name == "cell" else 1)
                value = arrays[name] if whole else arrays[name][index]
                atoms.set_cell(value) if name == "cell" else atoms.set_pbc(value)
        if "cell" in arrays and "pbc" not in arrays:
            atoms.pbc = True
        for name in ("energy", "forces", "stress", "virial"):
            if name in arrays:
                atoms.info[name] = np.asarray(arrays[name])[index]
        yield atoms


def _check_unit(path: Path, file: object, name: str, allowed: set[str], unit: str) -> None:
    if name not in file.files:
        return
    found = str(file[name].item() if file[name].ndim == 0 else file[name])
    if found.strip().lower() not in allowed:
        raise user_error(
            f"{name} of {path}", found=found, allowed=unit, remedy=f"convert the file to {unit}"
        )


def _unreadable(path: Path, number: int, error: Exception) -> KanMdError:
    kind = recognise(path)
    if kind.name in MODELS:
        return user_error(
            f"data file {path} cannot be read",
            found=kind.what,
            allowed="structures",
            remedy="give a model where a model is asked for, before the data",
        )
    text = " ".join(str(error).split())
    if isinstance(error, KeyError) and error.args[0] not in atomic_numbers:
        error, text = ValueError(), f"no element is called {text}"
    place = f" after {number} structures" if number else ""
    if isinstance(error, (EOFError, StopIteration)) and not text:
        text = "the file ends early"
    known = not isinstance(error, UnknownFileTypeError)
    return user_error(
        f"data file {path} cannot be read{place}",
        found=f"{type(error).__name__}: {text}"[:200].rstrip(": "),
        allowed="extended XYZ, another format of ASE, npz, nequip's LMDB",
        remedy="check that the file is whole" if known else "give it the ending of its format",
    )
