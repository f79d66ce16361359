"""Labels that contradict physics as a whole: units, signs and sums that people mix up.

Each check holds labels against one another, so that it needs no model: energies grow with the
number of atoms, stresses are far below 1 eV/Å³, a larger volume means more tension, and energies
fall along forces. Nothing is changed by them; they say what to look at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from ase import Atoms, units
from ase.geometry import find_mic

from kan_md.model.cells import has_volume
from kan_md.tasks.targets import ENERGY, FORCES, STRESS

FEWEST = 6
"""Structures, or pairs of them, below which nothing is said."""

LARGE_STRESS = 1.0
"""eV/Å³, 160 GPa; where half of the structures are beyond it, another unit is likely."""

SIZES = 1.5
"""Ratio of the largest to the smallest number of atoms that tells what an energy is of."""

CLEAR = 0.2
"""What the composition leaves of the labels, in units of what it leaves of them per atom."""

CORRELATION = 0.7
"""Pearson's; below minus this a sign is taken for the wrong one."""

NEAR = 0.6
"""Å; structures whose atoms moved by less lie in one valley, so that forces tell the energy."""

FACTOR = 2.0
"""Work of the forces in units of the energy's change from which on units are doubted."""

Doubt = tuple[str, list[int]]


def doubts(frames: Sequence[Atoms]) -> Iterator[tuple[str, str, list[int]]]:
    """Say what is doubtful about the labels of a set.

    Args:
        frames: structures without isolated atoms, in the order of their files.

    Yields:
        ``doubtful energies``, ``stresses`` or ``forces``; what is odd and its likely cause, on one
        line; indices of the structures behind it.
    """
    for label, check in (
        ("energies", _energies_per_atom),
        ("stresses", _stress_unit),
        ("stresses", _stress_sign),
        ("forces", _forces_against_energies),
    ):
        found = check(frames)
        if found is not None:
            yield f"doubtful {label}", *found


def _energies_per_atom(frames: Sequence[Atoms]) -> Doubt | None:
    """Energies that do not grow with the number of atoms."""
    labels = [ENERGY.label(atoms) for atoms in frames]
    known = [index for index, label in enumerate(labels) if label is not None]
    sizes = np.array([len(frames[index]) for index in known])
    if len(known) < FEWEST or sizes.max() < SIZES * sizes.min():
        return None
    energies = np.array([labels[index].item() for index in known])
    elements = sorted({symbol for index in known for symbol in set(frames[index].symbols)})
    shares = np.array(
        [[np.mean(frames[index].symbols == element) for element in elements] for index in known]
    )
    if len(known) < np.linalg.matrix_rank(shares) + FEWEST - 1:
        return None
    if not _residual(shares, energies) < CLEAR * _residual(shares, energies / sizes):
        return None
    text = f"alike for any number of atoms, {sizes.min()} to {sizes.max()}: are they per atom?"
    return text, known


def _residual(shares: np.ndarray, values: np.ndarray) -> float:
    """Median size of what the composition does not explain."""
    rest = values - shares @ np.linalg.lstsq(shares, values, rcond=1e-8)[0]
    return float(np.median(np.abs(rest)))


def _stresses(frames: Sequence[Atoms]) -> tuple[list[int], np.ndarray]:
    """Indices of the structures with a stress, and these, [n, 3, 3], eV/Å³."""
    labels = [STRESS.label(atoms) if has_volume(atoms) else None for atoms in frames]
    known = [index for index, label in enumerate(labels) if label is not None]
    return known, np.array([labels[index][0] for index in known]).reshape(-1, 3, 3)


def _stress_unit(frames: Sequence[Atoms]) -> Doubt | None:
    """Stresses that no structure has."""
    known, stresses = _stresses(frames)
    if not known:
        return None
    largest = np.abs(stresses).max(axis=(1, 2))
    middle = float(np.median(largest))
    if not middle > LARGE_STRESS:
        return None
    text = (
        f"typically {middle:.3g} eV/Å³, {middle / units.GPa:.3g} GPa: are they in GPa or kbar, or "
        "virials?"
    )
    return text, [index for index, size in zip(known, largest, strict=True) if size > LARGE_STRESS]


def _stress_sign(frames: Sequence[Atoms]) -> Doubt | None:
    """Tension that falls as the volume grows."""
    known, stresses = _stresses(frames)
    groups: dict[str, list[int]] = {}
    for row, index in enumerate(known):
        if frames[index].pbc.all():
            formula = frames[index].symbols.formula.reduce()[0]
            groups.setdefault(formula.format("metal"), []).append(row)
    tension = np.trace(stresses, axis1=1, axis2=2) / 3
    volume = np.array([frames[index].cell.volume / len(frames[index]) for index in known])
    x: list[float] = []
    y: list[float] = []
    used: list[int] = []
    for rows in groups.values():
        # Slabs and gases are much larger, and have no stress to speak of.
        near = [row for row in rows if abs(volume[row] / np.median(volume[rows]) - 1) < 0.3]
        x += (volume[near] / volume[near].mean() - 1).tolist()
        y += (tension[near] - tension[near].mean()).tolist()
        used += near
    if len(x) < FEWEST or np.std(x) < 0.005 or np.std(y) == 0:
        return None
    correlation = float(np.corrcoef(x, y)[0, 1])
    if correlation > -CORRELATION:
        return None
    text = f"less tension in larger volumes (correlation {correlation:.2f}): is the sign wrong?"
    return text, [known[row] for row in sorted(used)]


def _forces_against_energies(frames: Sequence[Atoms]) -> Doubt | None:
    """Work of the forces between structures that are alike, against the energy's change.

    Between two structures of one cell E_b - E_a ≈ -(F_a + F_b)/2 · (r_b - r_a), exactly so where
    the energy is a quadratic function.
    """
    changes, works, used = [], [], set()
    for index, (one, other) in enumerate(pairwise(frames)):
        found = _change_and_work(one, other)
        if found is not None:
            changes.append(found[0])
            works.append(found[1])
            used |= {index, index + 1}
    change, work = np.array(changes), np.array(works)
    if len(change) < FEWEST or not np.std(change) > 0 or not np.std(work) > 0:
        return None
    correlation = float(np.corrcoef(change, work)[0, 1])
    factor = float(np.sqrt(np.sum(work**2) / np.sum(change**2)))
    text = None
    if correlation < -CORRELATION:
        text = (
            f"the energy grows along them (correlation {correlation:.2f}, {len(change)} pairs): "
            "are they gradients?"
        )
    elif correlation > 0.9 and not 1 / FACTOR < factor < FACTOR:
        text = (
            f"their work is {factor:.3g} times the energy's change ({len(change)} pairs): other "
            "units?"
        )
    return None if text is None else (text, sorted(used))


def _change_and_work(one: Atoms, other: Atoms) -> tuple[float, float] | None:
    """E_other - E_one and minus the work of the forces, eV; None where the two are not alike."""
    if len(one) != len(other) or (one.numbers != other.numbers).any():
        return None
    if (one.pbc != other.pbc).any() or not np.allclose(one.cell.array, other.cell.array):
        return None
    labels = [(ENERGY.label(atoms), FORCES.label(atoms)) for atoms in (one, other)]
    if any(label is None or np.isnan(label).any() for pair in labels for label in pair):
        return None
    way = find_mic(other.positions - one.positions, one.cell, one.pbc)[0]
    if not 0 < np.abs(way).max() < NEAR:
        return None
    (energy, forces), (other_energy, other_forces) = labels
    return float((other_energy - energy).item()), float(-np.sum(way * (forces + other_forces)) / 2)
