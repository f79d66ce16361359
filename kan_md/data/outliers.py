"""Structures that lie far from all others: they are named, and have no say in scales."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from kan_md.tasks.targets import FORCES

WIDTHS = 10.0
"""Standard deviations (by the median deviation) at which an energy is an outlier."""

SMALLEST_ENERGY = 1.0
"""eV/atom; a smaller deviation is none."""

TIMES = 10.0
"""Times the forces of the third quartile at which those of a structure are an outlier."""

SMALLEST_FORCE = 10.0
"""eV/Å; a smaller force is none."""

FEWEST = 3
"""Structures among which one can be told from the others."""

LARGEST_SHARE = 0.1
"""More structures than this (and more than one) are no outliers, but a part of the set."""


def far_from_the_others(values: np.ndarray) -> np.ndarray:
    """Indices of energies per atom that are outliers among the finite ones.

    The distance from the median is held against 1.4826 times the median distance (the standard
    deviation of normal data: P. J. Rousseeuw, C. Croux, J. Am. Stat. Assoc. 88, 1273 (1993)).

    Args:
        values: [num_structures], eV; NaN are passed over.
    """
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < FEWEST:
        return np.zeros(0, dtype=np.int64)
    distance = np.abs(values[known] - np.median(values[known]))
    width = max(1.4826 * float(np.median(distance)), SMALLEST_ENERGY / WIDTHS)
    return _few(known[distance > WIDTHS * width], len(known))


def force_outliers(frames: Sequence[Atoms]) -> np.ndarray:
    """Indices of structures whose forces are far larger than those of nearly all others.

    Args:
        frames: structures; those without forces are passed over.
    """
    sizes = np.array([_force_size(atoms) for atoms in frames]).reshape(-1, 2)
    known = np.flatnonzero(np.isfinite(sizes[:, 0]))
    if len(known) < FEWEST:
        return np.zeros(0, dtype=np.int64)
    rms, largest = sizes[known].T
    usual = float(np.quantile(rms, 0.75, method="lower"))  # not above an outlier among few
    return _few(known[(rms > TIMES * usual) & (largest > SMALLEST_FORCE)], len(known))


def largest_force(atoms: Atoms) -> float:
    """Length of the largest force, eV/Å; NaN without forces."""
    return float(_force_size(atoms)[1])


def _force_size(atoms: Atoms) -> tuple[float, float]:
    """Root mean square of the components and length of the largest force."""
    forces = FORCES.label(atoms)
    if forces is None or np.isnan(forces).all():
        return np.nan, np.nan
    return float(np.sqrt(np.nanmean(forces**2))), float(np.sqrt(np.nansum(forces**2, 1).max()))


def _few(found: np.ndarray, number: int) -> np.ndarray:
    return found if len(found) <= max(1, LARGEST_SHARE * number) else found[:0]
