"""Structures to try a potential on when none are given."""

from __future__ import annotations

from collections.abc import Sequence

import ase
import numpy as np
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii


def random_structures(
    type_names: Sequence[str],
    count: int,
    *,
    rng: np.random.Generator,
    repeats: tuple[int, int, int] = (2, 2, 2),
) -> list[ase.Atoms]:
    """Disordered crystals of random composition: compressed to stretched, quiet to hot.

    Nearest neighbours start at 0.95 to 1.25 times the sum of the mean covalent radii on an fcc or
    a diamond lattice; displacements have a spread of 0.02 to 0.35 Å, and the cell is strained by up
    to a few per cent.

    Args:
        type_names: element symbols.
        count: number of structures.
        rng: source of everything random.
        repeats: of the cubic cells, which have 4 and 8 sites.
    """
    numbers = np.array([atomic_numbers[name] for name in type_names])
    return [_random_structure(numbers, repeats, rng) for _ in range(count)]


def _random_structure(
    numbers: np.ndarray, repeats: tuple[int, int, int], rng: np.random.Generator
) -> ase.Atoms:
    lattice = str(rng.choice(["fcc", "diamond"]))
    num_sites = 4 * int(np.prod(repeats)) * (2 if lattice == "diamond" else 1)
    shares = rng.dirichlet(np.ones(len(numbers)))
    symbols = rng.choice(numbers, size=num_sites, p=shares)
    distance = 2.0 * covalent_radii[symbols].mean() * rng.uniform(0.95, 1.25)
    # Nearest neighbours of the conventional cell are a/√2 (fcc) or a√3/4 (diamond) apart.
    a = distance * np.sqrt(2.0) if lattice == "fcc" else distance * 4.0 / np.sqrt(3.0)
    atoms = bulk("X", lattice, a=a, cubic=True) * repeats
    atoms.numbers[:] = symbols
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0.0, 0.02, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0.0, rng.uniform(0.02, 0.35), atoms.positions.shape)
    return atoms
