"""Which structures have a stress: those with a volume that strain can change."""

from __future__ import annotations

import ase

SMALLEST_VOLUME = 1e-6
"""Å³; below it three cell vectors lie in a plane."""


def has_volume(atoms: ase.Atoms) -> bool:
    """Whether a stress is defined: three cell vectors that span a volume, one of them periodic.

    A slab or a wire in a full cell has one, as in ASE (the vacuum counts); a molecule has none,
    whether it stands in a box or not.
    """
    return bool(atoms.pbc.any()) and float(atoms.cell.volume) > SMALLEST_VOLUME
