"""A process with LAMMPS in it: ``python -m results.experiments.mechanics.worker JOB RESULT``.

Reads which potential to take, writes what :func:`everything` finds, both as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from ase.calculators.lammpslib import LAMMPSlib

from kan_md import children
from kan_md.benchmark.log import last_line
from kan_md.benchmark.models import Entry
from kan_md.errors import KanMdError
from kan_md.files import write_text
from kan_md.lammps.run import lammps_environment
from results.experiments.crystals import cubic_constants
from results.experiments.mechanics.phonons import phonon_bands
from results.experiments.mechanics.solids import (
    FACES,
    compression,
    surface_energy,
    vacancy_energy,
)

ROOT = Path(__file__).parents[3]


def properties_of(entry: Entry, symbol: str, a: float, *, repeat: int = 5) -> dict:
    """What :func:`everything` finds for a potential, in a process of its own.

    Args:
        entry: the potential.
        symbol: of the fcc metal.
        a: guess of its lattice constant, Å.
        repeat: of the cubic cell, for the vacancy and the phonons.

    Raises:
        KanMdError: the process failed; the message carries its last line.
    """
    job = {"commands": entry.pair_commands([symbol]), "symbol": symbol, "a": a, "repeat": repeat}
    with TemporaryDirectory(prefix="kan-md-") as folder:
        asked, found = Path(folder, "job.json"), Path(folder, "result.json")
        write_text(asked, json.dumps(job))
        done = children.run(
            [sys.executable, "-m", "results.experiments.mechanics.worker", str(asked), str(found)],
            env=lammps_environment(threads=1),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if done.returncode != 0:
            raise KanMdError(
                f"properties of {entry.label} failed: {last_line(done.stderr or done.stdout)}"
            )
        return json.loads(found.read_text())


def everything(commands: list[str], symbol: str, a: float, repeat: int) -> dict:
    """Lattice constant, elastic constants, compression, vacancy, surfaces and phonons.

    Each property has a LAMMPS of its own: ASE's cells change from cubic to oblique between them.

    Args:
        commands: ``pair_style`` and ``pair_coeff``.
        symbol: of the fcc metal.
        a: guess of its lattice constant, Å.
        repeat: of the cubic cell, for the vacancy and the phonons.
    """

    def calculator() -> LAMMPSlib:
        return LAMMPSlib(
            lmpcmds=commands,
            atom_types={symbol: 1},
            keep_alive=True,
            lammps_header=["units metal", "atom_style atomic", "atom_modify map array sort 0 0"],
        )

    constants = cubic_constants("fcc", symbol, a, calculator())
    pressed = compression(symbol, constants.a, calculator())
    return {
        **asdict(constants),
        "bulk_modulus": pressed.bulk_modulus,
        "compression": asdict(pressed),
        "vacancy": vacancy_energy(symbol, constants.a, calculator(), repeat=repeat),
        "surfaces": {
            face: surface_energy(symbol, constants.a, face, calculator()) for face in FACES
        },
        "phonons": phonon_bands(symbol, constants.a, calculator(), repeat=repeat).as_json(),
    }


if __name__ == "__main__":
    write_text(
        Path(sys.argv[2]), json.dumps(everything(**json.loads(Path(sys.argv[1]).read_text())))
    )
