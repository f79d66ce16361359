"""Cells: complete ones for neighbour lists, and which structures have a stress."""

from __future__ import annotations

import ase
import numpy as np
from ase.geometry import complete_cell

from kan_md.errors import user_error

SMALLEST_VOLUME = 1e-6
"""Å³; below it three cell vectors lie in a plane."""


def has_volume(atoms: ase.Atoms) -> bool:
    """Whether a stress is defined: three cell vectors that span a volume, one of them periodic.

    A slab or a wire in a full cell has one, as in ASE (the vacuum counts); a molecule has none,
    whether it stands in a box or not.
    """
    return bool(atoms.pbc.any()) and float(atoms.cell.volume) > SMALLEST_VOLUME


def completed_cell(atoms: ase.Atoms) -> np.ndarray:
    """Three cell vectors that span a volume, [3, 3], Å, whatever the structure has.

    Vectors that are missing become unit vectors orthogonal to the others; so do those of directions
    that are not periodic if all three lie in a plane.

    Raises:
        KanMdError: a vector is not finite, or periodic ones are missing or lie in a plane.
    """
    if not np.isfinite(atoms.cell.array).all():
        raise user_error(
            "cell vectors must be finite",
            found=str(atoms.cell.array.tolist()),
            allowed=None,
            remedy="check the structure",
        )
    if float(atoms.cell.volume) > SMALLEST_VOLUME:
        return atoms.cell.array.copy()
    periodic = atoms.cell.array[atoms.pbc]
    if len(periodic) and np.linalg.matrix_rank(periodic) < len(periodic):
        raise user_error(
            f"cell vectors of {atoms.info.get('source', atoms.get_chemical_formula())}",
            found=f"{atoms.cell.array.tolist()} with pbc {atoms.pbc.tolist()}",
            allowed="periodic ones that span a line, a plane or a volume",
            remedy="correct the cell or pbc",
        )
    if np.linalg.matrix_rank(atoms.cell.array) == atoms.cell.rank:
        return complete_cell(atoms.cell.array)
    return complete_cell(atoms.cell.array * atoms.pbc[:, None])
