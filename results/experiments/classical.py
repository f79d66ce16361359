"""Potentials of LAMMPS' own that a local model is timed beside, for silver: files and settings.

MEAM has the published parameters of silver; the others are linear in their coefficients, which are
random numbers here: what an atom costs does not depend on them. Every cutoff is 5 Å but MEAM's,
which keeps LAMMPS' default of 4 Å, and EAM's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kan_md.benchmark.models import Entry, baseline_entry
from kan_md.files import write_text

CUTOFF = 5.0
_MEAM_LIBRARY = """\
'Ag' 'fcc' 12. 47 107.87
5.89 4.46 2.2 6.0 2.2 4.08 2.85 1.06
1.0 5.54 2.45 1.29 1.0 0
"""
"""Baskes, Phys. Rev. B 1992;46:2727, in the order of LAMMPS' library: alpha, four beta, lattice
constant, sublimation energy, A; four weights t, density scaling, kind of average."""

_POD = {
    "species": "Ag",
    "pbc": "1 1 1",
    "rin": 0.5,
    "rcut": CUTOFF,
    "bessel_polynomial_degree": 4,
    "inverse_polynomial_degree": 8,
    "onebody": 1,
    "twobody_number_radial_basis_functions": 6,
    "threebody_number_radial_basis_functions": 5,
    "threebody_angular_degree": 4,
    "fourbody_number_radial_basis_functions": 3,
    "fourbody_angular_degree": 3,
    "fivebody_number_radial_basis_functions": 0,
    "fivebody_angular_degree": 0,
    "sixbody_number_radial_basis_functions": 0,
    "sixbody_angular_degree": 0,
    "sevenbody_number_radial_basis_functions": 0,
    "sevenbody_angular_degree": 0,
}
"""As large as the examples that come with LAMMPS' ML-POD."""
_POD_COEFFICIENTS = 1 + 6 + 25 + 21
"""One body, two, three and four, as LAMMPS counts them."""

_SNAP_COEFFICIENTS = {6: 31, 8: 56}
"""By twojmax; with the constant."""

_SPLINE_DEGREE = 3


def meam(folder: Path) -> Entry:
    """MEAM, Baskes' silver."""
    write_text(folder / "library.meam", _MEAM_LIBRARY)
    return _entry("MEAM", "meam", f"{folder / 'library.meam'} Ag NULL")


def snap(folder: Path, *, twojmax: int) -> Entry:
    """Linear SNAP of bispectrum components up to ``twojmax``."""
    number = _SNAP_COEFFICIENTS[twojmax]
    coefficients = folder / f"snap{twojmax}.snapcoeff"
    parameters = folder / f"snap{twojmax}.snapparam"
    values = [f"{value:.10g}" for value in _random(number)]
    write_text(coefficients, "\n".join(["# random", f"1 {number}", "Ag 0.5 1.0", *values, ""]))
    write_text(
        parameters, f"rcutfac {CUTOFF}\ntwojmax {twojmax}\nrfac0 0.99363\nrmin0 0.0\nbzeroflag 1\n"
    )
    return _entry(f"SNAP, 2J = {twojmax}", "snap", f"{coefficients} {parameters}")


def pod(folder: Path) -> Entry:
    """ML-POD up to four bodies."""
    parameters, coefficients = folder / "silver.pod", folder / "silver-coefficients.pod"
    write_text(parameters, "".join(f"{key} {value}\n" for key, value in _POD.items()))
    values = [f"{value:.10g}" for value in _random(_POD_COEFFICIENTS)]
    write_text(
        coefficients, "\n".join([f"model_coefficients: {_POD_COEFFICIENTS} 0 0", *values, ""])
    )
    return _entry("ML-POD", "pod", f"{parameters} {coefficients}")


def uf3(folder: Path) -> Entry:
    """UF3, splines of two and three bodies, as fine as UF3's own examples."""
    path = folder / "silver.uf3"
    header = "#UF3 POT UNITS: metal DATE: 2026-01-01 AUTHOR: none CITATION: none"
    pair, short, long = _knots(0.001, CUTOFF, 16), _knots(1.5, CUTOFF, 7), _knots(1.5, 10.0, 13)
    two = _random(_number(pair))
    two[-_SPLINE_DEGREE:] = 0.0  # smooth at the cutoff
    three = _random(_number(short) ** 2 * _number(long)).reshape(
        _number(short), _number(short), _number(long)
    )
    three = three + three.transpose(1, 0, 2)
    three[-_SPLINE_DEGREE:] = three[:, -_SPLINE_DEGREE:] = 0.0
    lines = [
        header,
        "2B Ag Ag 0 3 uk",
        f"{CUTOFF} {len(pair)}",
        _line(pair),
        str(len(two)),
        _line(two),
        "#",
        header,
        "3B Ag Ag Ag 0 3 uk",
        f"{2 * CUTOFF} {CUTOFF} {CUTOFF} {len(long)} {len(short)} {len(short)}",
        *map(_line, (long, short, short)),
        " ".join(map(str, three.shape)),
        *(_line(row) for matrix in three for row in matrix),
        "#",
        "",
    ]
    write_text(path, "\n".join(lines))
    return _entry("UF3", "uf3 3", str(path))


CLASSICAL: dict[str, Callable[[Path], Entry]] = {
    "EAM": lambda _: baseline_entry("eam"),
    "MEAM": meam,
    "UF3": uf3,
    "ML-POD": pod,
    "SNAP, 2J = 6": lambda folder: snap(folder, twojmax=6),
    "SNAP, 2J = 8": lambda folder: snap(folder, twojmax=8),
}
"""What writes its files into a folder and says how LAMMPS is told of them."""


def _entry(label: str, style: str, coefficients: str) -> Entry:
    return Entry(
        label=label,
        type_names=("Ag",),
        pair_style=style,
        pair_coeff=coefficients,
        dtype="float64",
    )


def _random(number: int) -> np.ndarray:
    return 1e-4 * np.random.default_rng(1).normal(size=number)


def _knots(start: float, end: float, number: int) -> np.ndarray:
    ends = [[value] * _SPLINE_DEGREE for value in (start, end)]
    return np.concatenate([ends[0], np.linspace(start, end, number), ends[1]])


def _number(knots: Sequence[float]) -> int:
    """Splines of these knots."""
    return len(knots) - _SPLINE_DEGREE - 1


def _line(values: Sequence[float]) -> str:
    return " ".join(f"{value:.10g}" for value in values)
