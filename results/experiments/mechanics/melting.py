"""Melting temperature by coexistence: lammps_inputs/melting.in, run, read and judged."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from kan_md.benchmark.log import last_error
from kan_md.benchmark.models import Entry
from kan_md.errors import KanMdError
from kan_md.lammps.run import run_lammps

INPUT = "melting.in"
TRACE, PROFILE, RESTART = "melting.trace", "melting.profile", "melting.restart"
BOTH = (0.15, 0.85)
"""Shares of the box that are crystal between which both phases are told to be there."""
GUESSES = 5
_STEP = 60.0
"""K, from where a run of one phase ended to the next guess."""
_BLOCKS = 5


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Size and length of a coexistence run.

    Attributes:
        across: cubic cells along x and y.
        along: the same along z, where crystal and melt are side by side.
        steps: at constant enthalpy.
        prepare: of each of the four stages before.
        timestep: ps.
        seed: of the velocities.
    """

    across: int = 8
    along: int = 40
    steps: int = 20_000
    prepare: int = 2_000
    timestep: float = 0.003
    seed: int = 1

    @property
    def atoms(self) -> int:
        """Number of them, of an fcc crystal."""
        return 4 * self.across**2 * self.along


PILOT = Setting(across=6, along=16, steps=8_000)
"""A small box, to find from where the large one is to start."""


@dataclass(frozen=True, kw_only=True)
class Metal:
    """An fcc metal by a potential.

    Attributes:
        entry: the potential.
        symbol: of the element.
        a: lattice constant, Å.
        mass: of an atom, g/mol.
    """

    entry: Entry
    symbol: str
    a: float
    mass: float


@dataclass(frozen=True, kw_only=True)
class Melting:
    """What a coexistence run says; means are of its second half.

    Attributes:
        guess: from which it started, K.
        temperature: K.
        error: standard error of that mean from five blocks, K.
        pressure: bar.
        crystal: share of the box that is crystal.
        drift: of the conserved enthalpy over the whole run, meV/atom.
        atoms: number of them.
        time: of the run, ps.
        trace: [n, 2], time (ps) and temperature (K).
    """

    guess: float
    temperature: float
    error: float
    pressure: float
    crystal: float
    drift: float
    atoms: int
    time: float
    trace: list[tuple[float, float]]

    @property
    def has_both(self) -> bool:
        """Whether there was crystal and melt to the end, so that its temperature means melting."""
        return BOTH[0] < self.crystal < BOTH[1]


def melting_temperature(
    metal: Metal, folder: Path, *, guess: float, setting: Setting
) -> list[Melting]:
    """Find the temperature in a small box, then in the large one; arguments as below.

    Returns:
        Every run, those of the small box first.
    """
    found = coexistence(metal, folder / f"{PILOT.atoms}", guess=guess, setting=PILOT)
    if found[-1].has_both:
        guess = found[-1].temperature
        found += coexistence(metal, folder / f"{setting.atoms}", guess=guess, setting=setting)
    return found


def coexistence(metal: Metal, folder: Path, *, guess: float, setting: Setting) -> list[Melting]:
    """Run from guess to guess until both phases stay; what is there is not run again.

    Args:
        metal: what is to melt, by a potential.
        folder: of the runs; a run that was interrupted goes on from its last restart file.
        guess: to start with, K.
        setting: size and length of each.

    Returns:
        Every run; the last one has both phases, unless GUESSES did not do.

    Raises:
        KanMdError: LAMMPS failed.
    """
    found: list[Melting] = []
    while len(found) < GUESSES and not (found and found[-1].has_both):
        place = folder / f"from-{guess:.0f}-K"
        run_coexistence(metal, place, guess=guess, setting=setting)
        found.append(read_run(place, guess=guess, setting=setting))
        # A melt without crystal is above its melting temperature, a crystal alone is below.
        sign = 1 if found[-1].crystal >= BOTH[1] else -1
        guess = found[-1].temperature + sign * _STEP
    return found


def run_coexistence(metal: Metal, folder: Path, *, guess: float, setting: Setting) -> None:
    """Run melting.in, or go on with it, unless it is done; arguments as above.

    Raises:
        KanMdError: LAMMPS failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if _last_step(folder) >= setting.steps:
        return
    variables = {
        "model": shlex.split(metal.entry.pair_coeff)[0],
        "style": metal.entry.pair_style,
        "elements": metal.symbol if metal.entry.name_elements else "",
        "mass": metal.mass,
        "lattice": metal.a,
        "temperature": guess,
        "across": setting.across,
        "along": setting.along,
        "timestep": setting.timestep,
        "prepare": setting.prepare,
        "steps": setting.steps,
        "seed": setting.seed,
    }
    if (folder / RESTART).exists():
        variables["restart"] = RESTART
    else:
        for name in (TRACE, PROFILE):
            (folder / name).unlink(missing_ok=True)
    arguments = ["-in", str(files("kan_md_lammps_inputs") / INPUT), "-nocite"]
    for name, value in variables.items():
        arguments += ["-var", name, str(value)]
    done = run_lammps(arguments, threads=1, cwd=folder)
    if done.returncode != 0:
        raise KanMdError(
            f"the coexistence run of {metal.entry.label} failed: "
            f"{last_error(done.stdout) or last_error(done.stderr) or 'no output'}"
        )


def read_run(folder: Path, *, guess: float, setting: Setting) -> Melting:
    """Judge a run that is done.

    Args:
        folder: that it ran in.
        guess: from which it started, K.
        setting: size and length of it.
    """
    trace = read_trace(folder)
    trace = trace[trace[:, 0] <= setting.steps]
    half = trace[trace[:, 0] > setting.steps / 2]
    number = min(_BLOCKS, len(half))  # a short run has few lines
    blocks = [part[:, 1].mean() for part in np.array_split(half, number)]
    return Melting(
        guess=guess,
        temperature=float(half[:, 1].mean()),
        error=float(np.std(blocks, ddof=1) / np.sqrt(number)),
        pressure=float(half[:, 2].mean()),
        crystal=crystal_share(read_profiles(folder)),
        drift=float(1e3 * (trace[-1, 4] - trace[0, 4])),
        atoms=setting.atoms,
        time=setting.steps * setting.timestep,
        trace=[(round(step * setting.timestep, 4), round(t, 2)) for step, t in trace[:, :2]],
    )


def read_trace(folder: Path) -> np.ndarray:
    """Means that LAMMPS wrote: step, K, bar, eV/atom twice; each step once, rising.

    A run that goes on writes again what it had after its last restart file.
    """
    path = folder / TRACE
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [[float(word) for word in line.split()] for line in lines if not line.startswith("#")]
    by_step = {row[0]: row for row in rows}
    return np.array([by_step[step] for step in sorted(by_step)]).reshape(-1, 5)


def _last_step(folder: Path) -> float:
    trace = read_trace(folder)
    return trace[-1, 0] if len(trace) else 0.0


def read_profiles(folder: Path) -> np.ndarray:
    """Fraction of atoms with fcc neighbours along z, [num_profiles, num_slabs], rising in time."""
    profiles: dict[int, list[float]] = {}
    step = -1
    for line in (folder / PROFILE).read_text().splitlines():
        words = line.split()
        if line.startswith("#"):
            continue
        if len(words) == 3:  # step, number of slabs, number of atoms
            step = int(words[0])
            profiles[step] = []
        else:
            profiles[step].append(float(words[3]))
    return np.array([profiles[step] for step in sorted(profiles)])


def crystal_share(profiles: np.ndarray) -> float:
    """Share of the slabs that are crystal in the last quarter of a run.

    A hot crystal shows half of its atoms as fcc, a melt a few per cent: the bound between is half
    of the largest value, where that is no melt's own.

    Args:
        profiles: [num_profiles, num_slabs].
    """
    mean = profiles[-max(1, len(profiles) // 4) :].mean(axis=0)
    return 0.0 if mean.max() < 0.15 else float((mean > 0.5 * mean.max()).mean())
