"""The structures that models are timed on, and the LAMMPS data file they travel in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ase
import ase.build
import ase.io
import ase.spacegroup
import numpy as np
from ase.data import atomic_masses, atomic_numbers

from kan_md.errors import user_error
from kan_md.files import written_whole

SILVER_LATTICE = 4.09
"""Å, fcc Ag at room temperature."""

DIAMOND_LATTICE = 3.567
"""Å, cubic diamond."""


def silver(repeats: Sequence[int] = (3, 3, 2), *, vacancies: int = 1) -> ase.Atoms:
    """Build fcc silver with vacancies; the default is the 71-atom cell of the benchmark.

    Args:
        repeats: cubic four-atom cells along x, y, z.
        vacancies: atoms to remove, the first ones of the list.

    Returns:
        A periodic structure with ``4 * prod(repeats) - vacancies`` atoms.
    """
    atoms = ase.build.bulk("Ag", "fcc", a=SILVER_LATTICE, cubic=True) * tuple(repeats)
    del atoms[:vacancies]
    return atoms


def diamond(repeats: Sequence[int] = (2, 2, 2)) -> ase.Atoms:
    """Build cubic diamond; the default has 64 atoms."""
    return ase.build.bulk("C", "diamond", a=DIAMOND_LATTICE, cubic=True) * tuple(repeats)


def quartz(repeats: Sequence[int] = (2, 1, 2)) -> ase.Atoms:
    """Build alpha quartz (P3_221, room temperature) in orthogonal cells of 18 atoms.

    The default has the 72 atoms of ``lammps_inputs/sio2_infrared.in``.
    """
    crystal = ase.spacegroup.crystal(
        ["Si", "O"],
        [(0.4697, 0, 2 / 3), (0.4135, 0.2669, 0.78577)],
        spacegroup=154,
        cellpar=[4.913, 4.913, 5.405, 90, 90, 120],
    )
    orthogonal = ase.build.make_supercell(crystal, [[1, 0, 0], [1, 2, 0], [0, 0, 1]])
    return orthogonal * tuple(repeats)


def read_structure(path: str | Path) -> ase.Atoms:
    """Read the last frame of a file in any format that ASE knows.

    Raises:
        KanMdError: the file is missing, is no structure, has no cell, or a position not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise user_error(
            "structure file must exist", found=path, allowed=None, remedy="set --structure"
        )
    try:
        atoms = ase.io.read(path)
    except Exception as error:  # ASE's readers raise anything from KeyError to XML errors
        raise user_error(
            "structure file must be readable by ASE",
            found=f"{path} ({type(error).__name__}: {' '.join(str(error).split())})",
            allowed=None,
            remedy="convert it to extxyz",
        ) from error
    if not np.isfinite(atoms.positions).all():
        raise user_error(
            f"positions in {path} must be finite",
            found="NaN or infinity",
            allowed=None,
            remedy="correct the file",
        )
    if len(atoms) == 0 or np.linalg.matrix_rank(atoms.cell.array) < 3:
        raise user_error(
            "structure must hold atoms and a cell with a volume",
            found=f"{len(atoms)} atoms, cell lengths {atoms.cell.lengths().tolist()} Å in {path}",
            allowed=None,
            remedy="give the structure a cell",
        )
    return atoms


def elements_of(atoms: ase.Atoms, type_names: Sequence[str], *, label: str) -> list[str]:
    """List the elements of a structure in the order of the model's types.

    Raises:
        KanMdError: the model does not know an element of the structure.
    """
    present = set(atoms.get_chemical_symbols())
    unknown = sorted(present - set(type_names))
    if unknown:
        raise user_error(
            f"every element of the structure must be a type of {label}",
            found=" ".join(unknown),
            allowed=" ".join(type_names),
            remedy="choose another --structure or model",
        )
    return [name for name in type_names if name in present]


def write_data(path: str | Path, atoms: ase.Atoms, elements: Sequence[str]) -> None:
    """Write a LAMMPS data file (metal units, atom style atomic) with masses.

    Args:
        path: file to write.
        atoms: the structure; a triclinic cell is rotated into LAMMPS' convention.
        elements: LAMMPS types 1, 2, … in order.
    """
    order = list(elements)
    masses = {s: float(atomic_masses[atomic_numbers[s]]) for s in order}
    copy = atoms.copy()
    copy.wrap()
    copy.set_masses([masses[s] for s in copy.get_chemical_symbols()])
    options = {"specorder": order, "masses": True, "units": "metal"}
    with written_whole(path) as part:
        ase.io.write(part, copy, format="lammps-data", **options)
