"""An fcc metal at rest under a calculator: equation of state, vacancy, surfaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc100, fcc110, fcc111
from ase.calculators.calculator import Calculator
from ase.eos import EquationOfState
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS
from ase.units import GPa, J, m

from kan_md.errors import KanMdError

FORCES = 1e-3
"""eV/Å; smaller ones are at rest. The forces of a model in float32 are good to 1e-5."""
_STEPS = 500
FACES: dict[str, Callable[..., Atoms]] = {"111": fcc111, "100": fcc100, "110": fcc110}
"""In the order of how densely they are packed."""


@dataclass(frozen=True, kw_only=True)
class Compression:
    """Energy of a crystal against its volume, and Birch and Murnaghan's equation through it.

    Attributes:
        volumes: [n], Å³/atom.
        energies: [n], eV/atom.
        volume: where the energy is lowest, Å³/atom.
        bulk_modulus: there, GPa.
    """

    volumes: list[float]
    energies: list[float]
    volume: float
    bulk_modulus: float

    @property
    def a(self) -> float:
        """Lattice constant of the fcc crystal, Å."""
        return (4 * self.volume) ** (1 / 3)


def compression(
    symbol: str, a: float, calculator: Calculator, *, scales: Sequence[float] | None = None
) -> Compression:
    """Strain an fcc crystal evenly, from -3 to +3 % in length unless told otherwise.

    Args:
        symbol: of the element.
        a: lattice constant about which to strain, Å.
        calculator: of the potential.
        scales: of the lattice constant.
    """
    scales = np.linspace(0.97, 1.03, 13) if scales is None else scales
    volumes, energies = [], []
    for scale in scales:
        atoms = bulk(symbol, "fcc", a=a * scale, cubic=True)
        atoms.calc = calculator
        volumes.append(atoms.get_volume() / len(atoms))
        energies.append(atoms.get_potential_energy() / len(atoms))
    volume, _, modulus = EquationOfState(volumes, energies, eos="birchmurnaghan").fit()
    return Compression(
        volumes=volumes, energies=energies, volume=float(volume), bulk_modulus=float(modulus / GPa)
    )


def vacancy_energy(symbol: str, a: float, calculator: Calculator, *, repeat: int = 5) -> float:
    """Formation energy of a vacancy at zero pressure, eV: E(N - 1) - (N - 1)/N E(N).

    Args:
        symbol: of the element.
        a: lattice constant at rest, Å.
        calculator: of the potential.
        repeat: of the cubic cell; the default has 500 sites.

    Raises:
        KanMdError: the atoms do not come to rest.
    """
    atoms = bulk(symbol, "fcc", a=a, cubic=True).repeat(repeat)
    atoms.calc = calculator
    sites = len(atoms)
    whole = atoms.get_potential_energy()
    del atoms[0]
    _relax(FrechetCellFilter(atoms), "the cell with a vacancy")
    return float(atoms.get_potential_energy() - whole * (sites - 1) / sites)


def surface_energy(
    symbol: str, a: float, face: str, calculator: Calculator, *, layers: int = 16
) -> float:
    """Energy of a relaxed surface without reconstruction, J/m²: half of what a slab has too much.

    Args:
        symbol: of the element.
        a: lattice constant at rest, Å.
        face: of FACES.
        calculator: of the potential.
        layers: of the slab.

    Raises:
        KanMdError: the atoms do not come to rest.
    """
    crystal = bulk(symbol, "fcc", a=a, cubic=True)
    crystal.calc = calculator
    per_atom = crystal.get_potential_energy() / len(crystal)
    slab = FACES[face](symbol, size=(2, 2, layers), a=a, vacuum=10.0, orthogonal=True)
    slab.pbc = True  # the vacuum parts the images
    slab.calc = calculator
    _relax(slab, f"the slab with {face} surfaces")
    area = np.linalg.norm(np.cross(slab.cell[0], slab.cell[1]))
    excess = slab.get_potential_energy() - len(slab) * per_atom
    return float(excess / (2 * area) * m**2 / J)


def _relax(what: Atoms | FrechetCellFilter, name: str) -> None:
    with LBFGS(what, logfile=None) as search:
        if not search.run(fmax=FORCES, steps=_STEPS):
            raise KanMdError(
                f"{name} must come to rest within {_STEPS} steps at {FORCES:g} eV/Å, got "
                f"{np.linalg.norm(what.get_forces(), axis=1).max():.3g} eV/Å; look at the potential"
            )
