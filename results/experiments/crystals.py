"""Crystals at rest under a potential: lattice constants, elastic constants, volumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from ase.spacegroup import crystal
from ase.units import GPa
from scipy.optimize import minimize_scalar

STRAIN = 0.005
"""Largest component of the strain tensor of a finite difference."""

_FORCES = 2e-3
"""eV/Å; smaller ones are at rest."""


@dataclass(frozen=True)
class CubicConstants:
    """A cubic crystal at rest.

    Attributes:
        a: lattice constant, Å.
        c11: elastic constant, GPa, like those that follow; atoms may move inside the cell.
        c12: elastic constant.
        c44: elastic constant.
    """

    a: float
    c11: float
    c12: float
    c44: float


def cubic_constants(
    structure: str, symbol: str, a: float, calculator: Calculator
) -> CubicConstants:
    """Lattice constant of lowest energy within 7 % of a guess, and elastic constants there.

    Args:
        structure: ``fcc`` or ``diamond``.
        symbol: of the element.
        a: guess, Å.
        calculator: of the potential.
    """

    def make(length: float) -> Atoms:
        atoms = bulk(symbol, structure, a=length, cubic=True)
        atoms.calc = calculator
        return atoms

    found = minimize_scalar(
        lambda length: make(length).get_potential_energy(),
        bounds=(0.93 * a, 1.07 * a),
        method="bounded",
        options={"xatol": 1e-3},
    ).x
    # float32 energies are flat at the minimum: a cubic through seven points is not.
    lengths = found * np.linspace(0.99, 1.01, 7)
    fit = np.polynomial.Polynomial.fit(
        lengths, [make(x).get_potential_energy() for x in lengths], 3
    )
    candidates = [root.real for root in fit.deriv().roots() if abs(root.imag) < 1e-12]
    rest = min(candidates, key=lambda length: abs(length - found), default=found)

    def slope(strain: np.ndarray) -> np.ndarray:
        stresses = [_strained(make(rest), sign * strain).get_stress() for sign in (1, -1)]
        return (stresses[0] - stresses[1]) / (2 * STRAIN * GPa)

    tension, shear = np.zeros((3, 3)), np.zeros((3, 3))
    tension[0, 0] = STRAIN
    shear[1, 2] = shear[2, 1] = STRAIN / 2  # the engineering strain is twice this
    pulled, sheared = slope(tension), slope(shear)
    return CubicConstants(
        float(rest), float(pulled[0]), float(pulled[1:3].mean()), float(sheared[3])
    )


def _strained(atoms: Atoms, strain: np.ndarray) -> Atoms:
    """The crystal in a strained cell, its atoms at rest there."""
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    FIRE(atoms, logfile=None).run(fmax=_FORCES, steps=200)
    return atoms


def monoclinic_hafnia() -> Atoms:
    """HfO2 in P2₁/c, 12 atoms, about as J. Adam and M. D. Rogers found it, Acta Cryst. 12, 951."""
    places = [(0.276, 0.041, 0.207), (0.073, 0.341, 0.335), (0.449, 0.757, 0.480)]
    cell = [5.117, 5.175, 5.292, 90.0, 99.2, 90.0]
    return crystal(("Hf", "O", "O"), basis=places, spacegroup=14, cellpar=cell)


def relaxed_volume(make: Callable[[], Atoms], calculator: Calculator) -> float:
    """Volume of a crystal whose cell and atoms are at rest, Å³."""
    atoms = make()
    atoms.calc = calculator
    FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=5e-3, steps=500)
    return float(atoms.get_volume())
