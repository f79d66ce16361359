"""Perturbed structures with the labels of a teacher: more to learn from where labels are dear."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator

from kan_md.errors import user_error
from kan_md.model.graph import periodic_edges

CLOSER = 0.75
"""No two atoms of a perturbed structure come closer than this share of the shortest distance that
their elements have in the given ones: there a teacher would have to guess."""

CONFIG_TYPE = "augmented"
_TRIES = 100

Pair = tuple[int, int]  # atomic numbers in ascending order


def augment(
    frames: Sequence[Atoms],
    teacher: Calculator,
    *,
    copies: int = 4,
    displacement: float = 0.1,
    strain: float = 0.02,
    weight: float = 1.0,
    seed: int = 0,
    r_max: float = 5.0,
    track: Iterable[Atoms] | None = None,
) -> Iterator[Atoms]:
    """Perturb each structure a few times and label the results by a teacher.

    Atoms move by normal random numbers in every direction, and by others where that brings them too
    close to another one. A cell that is periodic in all three
    directions is deformed by a symmetric matrix of uniform random numbers, atoms with it; others
    keep their cell. Labels of the given structures are not looked at.

    Args:
        frames: structures, without isolated atoms.
        teacher: any calculator with energy and forces; stress is a label where the cell is periodic
            and the teacher has it.
        copies: perturbed structures of each.
        displacement: standard deviation of each coordinate, Å.
        strain: largest element of the deformation.
        weight: ``config_weight`` of the new structures, against 1 of others.
        seed: of all random numbers; a structure's own do not depend on the others.
        r_max: Å, up to which distances are compared, see :data:`CLOSER`.
        track: the frames once more, wrapped in a progress bar.

    Yields:
        Structures with energy (eV), forces (eV/Å) and stress (eV/Å³), ``config_type`` and
        ``config_weight``, copies of a structure one after the other.

    Raises:
        KanMdError: an argument outside its range, or perturbations that bring atoms too close.
    """
    _check("copies", copies, copies >= 1, "integers from 1")
    _check("displacement", displacement, 0.0 <= displacement < math.inf, "0 Å or more")
    _check("strain", strain, 0.0 <= strain <= 0.3, "0 to 0.3")
    _check("displacement and strain", "0 and 0", displacement + strain > 0.0, "one above 0")
    _check("weight", weight, 0.0 < weight < math.inf, "above 0")
    _check("seed", seed, seed >= 0, "integers from 0")
    shortest = shortest_distances(frames, r_max)
    has_stress = "stress" in teacher.implemented_properties
    for number, atoms in enumerate(frames if track is None else track):
        for copy in range(copies):
            rng = np.random.default_rng([seed, number, copy])
            perturbed = _perturbed(atoms, rng, displacement, strain, shortest, r_max)
            labels = {
                name: teacher.get_property(name, perturbed)
                for name in ("energy", "forces", *(["stress"] if has_stress else []))
                if name != "stress" or perturbed.pbc.all()
            }
            perturbed.info |= {"config_type": CONFIG_TYPE, "config_weight": weight}
            perturbed.calc = SinglePointCalculator(perturbed, **labels)
            yield perturbed


def shortest_distances(frames: Iterable[Atoms], r_max: float) -> dict[Pair, float]:
    """Shortest distance of each pair of elements up to r_max, Å, over all structures."""
    found: dict[Pair, float] = {}
    for atoms in frames:
        pairs, lengths, _ = _neighbours(atoms, r_max)
        for low, high in np.unique(pairs, axis=1).T:
            pair = int(low), int(high)
            length = float(lengths[(pairs[0] == low) & (pairs[1] == high)].min())
            found[pair] = min(length, found.get(pair, math.inf))
    return found


def _neighbours(atoms: Atoms, r_max: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Elements in ascending order [2, num_edges], lengths [num_edges], edge_index."""
    edges = periodic_edges(atoms, r_max)
    index = edges.edge_index.numpy()
    lengths = np.linalg.norm(edges.edge_vectors.numpy(), axis=1)
    return np.sort(atoms.numbers[index], axis=0), lengths, index


def _perturbed(
    atoms: Atoms,
    rng: np.random.Generator,
    displacement: float,
    strain: float,
    shortest: Mapping[Pair, float],
    r_max: float,
) -> Atoms:
    """A perturbed structure whose atoms keep their distance."""
    found = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    if atoms.pbc.all():
        random = rng.uniform(-strain, strain, (3, 3))
        deformation = np.eye(3) + 0.5 * (random + random.T)
        found.set_cell(found.cell.array @ deformation, scale_atoms=True)
    start = found.positions.copy()
    chosen = np.arange(len(found))
    for _ in range(_TRIES):
        found.positions[chosen] = start[chosen] + rng.normal(0.0, displacement, (len(chosen), 3))
        pairs, lengths, index = _neighbours(found, r_max)
        allowed = [CLOSER * shortest.get((int(low), int(high)), 0.0) for low, high in pairs.T]
        chosen = np.unique(index[:, lengths < allowed])
        if not len(chosen):
            return found
    raise user_error(
        "displacement and strain of perturbed structures",
        found=f"{displacement:g} Å and {strain:g}, after {_TRIES} draws of which atoms of "
        f"{atoms.get_chemical_formula()} are closer than {CLOSER:g} of the shortest distance given",
        allowed=None,
        remedy="set smaller ones",
    )


def _check(name: str, found: object, valid: bool, allowed: str) -> None:
    if not valid:
        raise user_error(
            f"{name} of perturbed structures", found=found, allowed=allowed, remedy=f"set {name}"
        )
