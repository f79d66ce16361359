"""Reads what LAMMPS prints after a run: loop time and the timing breakdown."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LOOP = re.compile(r"^Loop time of (\S+) on \d+ procs for (\d+) steps with \d+ atoms", re.MULTILINE)
_CPU_USE = re.compile(r"^([\d.]+)% CPU use with (\d+) MPI tasks", re.MULTILINE)
_SECTION = re.compile(r"^(\w+) *\|([^|]*)\|([^|]*)\|", re.MULTILINE)
_ERROR = re.compile(r"^ERROR.*$", re.MULTILINE)
SECTIONS = ("Pair", "Neigh", "Comm", "Output", "Modify", "Other")


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """What LAMMPS says after a run.

    Attributes:
        loop_time: s.
        steps: of the run.
        cpu_time: s, processor time within the loop, all threads of all ranks.
        phases: s per section, mean over ranks.
    """

    loop_time: float
    steps: int
    cpu_time: float
    phases: dict[str, float]


def read_breakdown(text: str) -> Breakdown:
    """Read the last run of a log.

    Args:
        text: the log, at least from the ``Loop time`` line of its last run.

    Raises:
        ValueError: no finished run in the text.
    """
    loops = list(_LOOP.finditer(text))
    if not loops:
        raise ValueError("no 'Loop time' line in the LAMMPS log")
    last = loops[-1]
    rest = text[last.end() :]
    phases = {}
    for name, _, average in _SECTION.findall(rest):
        if name in SECTIONS:
            # 'Other' leaves the minimum and maximum columns empty on every number of ranks.
            phases[name] = float(average)
    loop_time = float(last[1])
    # Of one rank with its threads, the mean over ranks. The loop's line counts ranks times threads.
    use = _CPU_USE.search(rest)
    return Breakdown(
        loop_time=loop_time,
        steps=int(last[2]),
        cpu_time=loop_time * int(use[2]) * float(use[1]) / 100 if use else 0.0,
        phases=phases,
    )


def last_error(text: str) -> str | None:
    """The last ERROR line of a log or of a process' output, None where there is none."""
    errors = _ERROR.findall(text)
    return errors[-1].strip() if errors else None


def last_line(text: str) -> str:
    """The last line that is not blank; empty where there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
