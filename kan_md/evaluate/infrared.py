"""Infrared absorption from the dipole current of a trajectory.

With J = dM/dt = Σ Z*·v of a cell of volume V at temperature T, the absorption coefficient α times
the refractive index n is

    α(ω) n(ω) = 1 / (6 ε₀ c V k_B T) ∫ dt e^(-iωt) ⟨J(0)·J(t)⟩

(linear response, classical nuclei with the harmonic quantum correction; e.g. Ramírez et al.,
J. Chem. Phys. 2004;121:3973). The sum rule ∫₀^∞ α n dω = π ⟨J²⟩ / (6 ε₀ c V k_B T) holds exactly
for what is computed here, whatever the smoothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.units import _c, _e, _eps0, _k

from kan_md.errors import user_error

_CURRENT = _e * 1e-10 / 1e-12  # C m/s per e Å/ps


@dataclass(frozen=True)
class Current:
    """Dipole current of a cell.

    Attributes:
        values: [num_samples, 3], e Å/ps.
        step: time between samples, ps.
        volume: Å³.
        temperature: K, mean over the samples.
    """

    values: np.ndarray
    step: float
    volume: float
    temperature: float


def read_current(path: str | Path) -> Current:
    """Read what ``sio2_infrared.in`` writes: ``# volume V``, then step, time, J, T per line.

    Raises:
        KanMdError: the file is missing, too short, unevenly sampled, or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise user_error(
            "current file not found", found=path, allowed=None, remedy="check its path"
        )
    text = path.read_text(errors="replace")
    volume = re.search(r"^# volume ([\d.eE+-]+)", text, re.MULTILINE)
    try:
        rows = np.array(
            [line.split() for line in text.splitlines() if line and not line.startswith("#")],
            dtype=float,
        )
    except ValueError:
        rows = np.zeros((0, 0))
    if volume is None or rows.ndim != 2 or len(rows) < 16 or rows.shape[1] != 6:
        raise user_error(
            f"{path} must hold '# volume V' and 16 or more lines of step, time, Jx, Jy, Jz, T",
            found=f"{len(rows)} lines" + ("" if volume else " and no volume"),
            allowed=None,
            remedy="make it with lammps_inputs/sio2_infrared.in",
        )
    steps = np.diff(rows[:, 1])
    if steps[0] <= 0 or not np.allclose(steps, steps[0], rtol=1e-3):
        raise user_error(
            f"{path}: times must increase evenly",
            found=f"steps from {steps.min():g} to {steps.max():g} ps",
            allowed=None,
            remedy="write the current of one run at a fixed interval",
        )
    return Current(
        values=rows[:, 2:5],
        step=float(steps.mean()),
        volume=float(volume.group(1)),
        temperature=float(rows[:, 5].mean()),
    )


def absorption(current: Current, *, resolution: float = 15.0) -> tuple[np.ndarray, np.ndarray]:
    """Absorption α·n of a current.

    Args:
        current: of an equilibrium trajectory.
        resolution: full width at half maximum of the Gaussian that smooths the spectrum, cm⁻¹.

    Returns:
        Wavenumbers, cm⁻¹, from zero to the Nyquist limit in even steps, and α·n, cm⁻¹.

    Raises:
        KanMdError: ``resolution`` is not > 0.
    """
    if not resolution > 0:
        raise user_error(
            "resolution must be > 0 1/cm", found=resolution, allowed=None, remedy="set --resolution"
        )
    number = len(current.values)
    values = current.values * _CURRENT
    # Zero padding keeps the correlation from wrapping around.
    spectrum = np.abs(np.fft.rfft(values, 2 * number, axis=0)) ** 2
    correlation = np.fft.irfft(spectrum.sum(1), 2 * number)[:number] / number  # ⟨J(0)·J(t)⟩
    seconds = current.step * 1e-12
    time = seconds * np.arange(number)
    # Gaussian of that width in wavenumber, as a window in time.
    sigma = resolution * 100 * _c * 2 * np.pi / np.sqrt(8 * np.log(2))  # rad/s
    window = correlation * np.exp(-0.5 * (sigma * time) ** 2)
    even = np.concatenate([window, [0.0], window[:0:-1]])
    integral = np.fft.rfft(even).real * seconds
    frequency = np.fft.rfftfreq(2 * number, seconds)
    volume = current.volume * 1e-30
    factor = 1.0 / (6 * _eps0 * _c * volume * _k * current.temperature)  # gives 1/m
    return frequency / _c / 100, factor * integral / 100
