"""Many small LAMMPS runs in one process: loading libtorch costs more than most of them."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
from ase import Atoms

from kan_md.lammps.run import lammps_environment, mpiexec
from kan_md.waiting import PATIENT_RANKS

DRIVER = Path(__file__).with_name("driver.py")
BAR_PER_EV_A3 = 1.6021765e6  # nktv2p of LAMMPS' metal units
PER_ATOM = [
    "compute eatom all pe/atom pair",
    "compute vatom all stress/atom NULL pair",
    "compute cvatom all centroid/stress/atom NULL pair",
    "compute kansum all reduce sum c_eatom c_vatom[1] c_cvatom[9]",
    "compute kanpress all pressure NULL pair",
    "thermo_style custom step pe etotal temp press vol pxx pyy pzz pxy pxz pyz c_kansum[*] "
    "c_kanpress[*]",
]
ZERO_STEPS = [*PER_ATOM, "run 0"]


@dataclass
class Result:
    """What one job left behind; arrays are sorted by atom ID."""

    error: str
    output: str
    thermo: dict
    values: dict
    atoms: dict = field(default_factory=dict)
    owned_by_rank: list = field(default_factory=list)

    @property
    def energy(self):
        return self.thermo["pe"]

    @property
    def forces(self):
        return self.atoms["f"]

    @property
    def virial(self):
        """[3, 3], eV, sum of r F: what `compute pressure` says, times the volume."""
        return symmetric(self.values["kanpress"]) * self.thermo["vol"] / BAR_PER_EV_A3


def symmetric(six):
    xx, yy, zz, xy, xz, yz = six
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


class Engine:
    """Runs jobs in one process per call.

    Args:
        folder: scratch space.
    """

    def __init__(self, folder):
        self._folder = folder
        self._numbers = count()

    def run(self, jobs, *, ranks=1, threads=1, environment=None, timeout=600):
        """Run jobs (dicts for driver.py) one after the other; results in the same order."""
        folder = self._folder / f"engine-{next(self._numbers)}"
        folder.mkdir()
        (folder / "jobs.json").write_text(json.dumps(jobs))
        command = [sys.executable, str(DRIVER), "jobs.json", "."]
        process = subprocess.run(
            [*(mpiexec(ranks) if ranks > 1 else []), *command],
            cwd=folder,
            # Tests run side by side, so there are always more ranks than cores.
            env={**PATIENT_RANKS, **lammps_environment(threads=threads), **(environment or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-2000:]
        return [_collect(folder, number, ranks) for number in range(len(jobs))]


def _collect(folder, number, ranks):
    said = json.loads((folder / f"result-{number}.json").read_text())
    output = "".join((folder / f"out-{number}-{rank}.txt").read_text() for rank in range(ranks))
    paths = [folder / f"atoms-{number}-{rank}.npz" for rank in range(ranks)]
    result = Result(said["error"], output, said["thermo"], said["values"])
    if all(path.is_file() for path in paths):
        parts = [dict(np.load(path)) for path in paths]
        result.owned_by_rank = [len(part["id"]) for part in parts]
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        order = np.argsort(joined["id"])
        result.atoms = {key: value[order] for key, value in joined.items()}
    return result


def system(atoms: Atoms, elements, style, file, *, folder, before=(), pair=None):
    """LAMMPS lines that make ``atoms`` and give them a model.

    Args:
        atoms: cell rows in LAMMPS' lower-triangular form; numbers of the given elements.
        elements: atom type 1, 2, ...
        style: pair style.
        file: deployed model.
        folder: where the data file goes.
        before: lines between ``units`` and the box.
        pair: lines instead of the usual pair_style and pair_coeff.
    """
    data = folder / f"{abs(hash((atoms.positions.tobytes(), atoms.cell.array.tobytes())))}.data"
    data.write_text(data_file(atoms, elements))
    boundary = " ".join("p" if periodic else "f" for periodic in atoms.pbc)
    names = " ".join(elements)
    return [
        "units metal",
        "atom_style atomic",
        "atom_modify map array",
        f"boundary {boundary}",
        *before,
        "box tilt large",
        f"read_data {data}",
        *(pair or [f"pair_style {style}", f"pair_coeff * * {file} {names}"]),
        "thermo_modify lost error",
    ]


def data_file(atoms, elements):
    """A LAMMPS data file with all digits; masses are ASE's."""
    cell = atoms.cell.array
    assert np.allclose(np.triu(cell, 1), 0.0), "cell must be lower-triangular"
    lines = ["test", "", f"{len(atoms)} atoms", f"{len(elements)} atom types", ""]
    for axis, name in enumerate("xyz"):
        lines.append(f"0.0 {cell[axis, axis]:.17g} {name}lo {name}hi")
    if np.abs(np.tril(cell, -1)).max() > 0.0:
        lines.append(f"{cell[1, 0]:.17g} {cell[2, 0]:.17g} {cell[2, 1]:.17g} xy xz yz")
    lines += ["", "Masses", ""]
    lines += [f"{n} {Atoms(e).get_masses()[0]:.17g}" for n, e in enumerate(elements, 1)]
    lines += ["", "Atoms", ""]
    for number, (symbol, position) in enumerate(zip(atoms.symbols, atoms.positions, strict=True)):
        x, y, z = position
        lines.append(f"{number + 1} {elements.index(symbol) + 1} {x:.17g} {y:.17g} {z:.17g}")
    return "\n".join(lines) + "\n"


def start_line(output):
    """Layout, atoms, ghosts and edges of the line that a pair style prints at start."""
    match = re.search(r"layout ([a-z ]+), (\d+) atoms, (\d+) ghosts, (\d+) edges, about", output)
    assert match, output
    return match[1], int(match[2]), int(match[3]), int(match[4])
