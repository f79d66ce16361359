"""Phonons of an fcc metal from finite displacements, by phonopy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator

from kan_md.errors import user_error

PATH = "GXU,KGL"
"""U and K are the same wave."""
POINTS = 121
DISPLACEMENT = 0.02
"""Å; a harmonic one, yet far above what float32 makes of the forces."""
SPECIAL = {"X": (0.5, 0.0, 0.5), "L": (0.5, 0.5, 0.5)}
"""In the reciprocal vectors of ASE's primitive fcc cell."""


@dataclass(frozen=True, kw_only=True)
class Bands:
    """Frequencies along PATH.

    Attributes:
        distance: [n], along the path.
        frequencies: [n, 3], THz, rising; imaginary ones as negative numbers.
        ticks: named points and their places along the path.
        special: [3], THz, at X and at L: two transverse, one longitudinal.
    """

    distance: list[float]
    frequencies: list[list[float]]
    ticks: list[tuple[str, float]]
    special: dict[str, list[float]]

    def as_json(self) -> dict:
        """Plain content, to a thousandth."""
        rounded = asdict(self)
        rounded["distance"] = np.round(self.distance, 4).tolist()
        rounded["frequencies"] = np.round(self.frequencies, 4).tolist()
        return rounded


def phonon_bands(symbol: str, a: float, calculator: Calculator, *, repeat: int = 5) -> Bands:
    """By finite displacements in a supercell of cubic cells.

    A one-layer model's force constants reach twice its cutoff, 10 Å: the default's half width.

    Args:
        symbol: of the element.
        a: lattice constant at rest, Å.
        calculator: of the potential.
        repeat: of the cubic cell.

    Raises:
        KanMdError: there is no phonopy.
    """
    try:
        from phonopy import Phonopy
        from phonopy.structure.atoms import PhonopyAtoms
    except ImportError as error:
        raise user_error(
            "phonons need phonopy",
            found="no such package",
            allowed=None,
            remedy="pip install phonopy",
        ) from error
    cell = bulk(symbol, "fcc", a=a, cubic=True)
    phonon = Phonopy(
        PhonopyAtoms(
            symbols=list(cell.symbols),
            cell=cell.cell.array,
            scaled_positions=cell.get_scaled_positions(),
        ),
        supercell_matrix=[repeat] * 3,
        primitive_matrix="F",
    )
    phonon.generate_displacements(distance=DISPLACEMENT)
    forces = []
    for moved in phonon.supercells_with_displacements:
        atoms = Atoms(moved.symbols, cell=moved.cell, positions=moved.positions, pbc=True)
        atoms.calc = calculator
        forces.append(atoms.get_forces())
    phonon.forces = forces
    phonon.produce_force_constants()

    def at(waves: np.ndarray) -> np.ndarray:
        phonon.run_qpoints(waves)
        return np.sort(np.array(phonon.qpoints.frequencies), axis=1)

    return _along_path(symbol, a, at)


def _along_path(symbol: str, a: float, at: Callable[[np.ndarray], np.ndarray]) -> Bands:
    path = bulk(symbol, "fcc", a=a).cell.bandpath(PATH, npoints=POINTS)
    distance, places, labels = path.get_linear_kpoint_axis()
    ticks: list[tuple[str, float]] = []
    for label, place in zip(labels, places.tolist(), strict=True):
        if ticks and abs(ticks[-1][1] - place) < 1e-9:  # the path goes on from an equivalent point
            label = f"{ticks.pop()[0]}={label}"
        ticks.append((label, place))
    return Bands(
        distance=distance.tolist(),
        frequencies=at(path.kpts).tolist(),
        ticks=ticks,
        special={name: at(np.array([wave]))[0].tolist() for name, wave in SPECIAL.items()},
    )
