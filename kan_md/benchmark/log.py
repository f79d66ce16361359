"""Reads what LAMMPS prints after a run: loop time and the timing breakdown."""

from __future__ import annotations

import re

_LOOP = re.compile(r"^Loop time of (\S+) on \d+ procs for (\d+) steps with \d+ atoms", re.MULTILINE)
_SECTION = re.compile(r"^(\w+) *\|([^|]*)\|([^|]*)\|", re.MULTILINE)
_ERROR = re.compile(r"^ERROR.*$", re.MULTILINE)
SECTIONS = ("Pair", "Neigh", "Comm", "Output", "Modify", "Other")


def read_breakdown(text: str) -> tuple[float, int, dict[str, float]]:
    """Read the last run of a log.

    Args:
        text: the log, at least from the ``Loop time`` line of its last run.

    Returns:
        Loop time in s, its number of steps, and seconds per section (mean over ranks).

    Raises:
        ValueError: no finished run in the text.
    """
    loops = list(_LOOP.finditer(text))
    if not loops:
        raise ValueError("no 'Loop time' line in the LAMMPS log")
    last = loops[-1]
    phases = {}
    for name, _, average in _SECTION.findall(text[last.end() :]):
        if name in SECTIONS:
            # 'Other' leaves the minimum and maximum columns empty on every number of ranks.
            phases[name] = float(average)
    return float(last[1]), int(last[2]), phases


def last_error(text: str) -> str | None:
    """The last ERROR line of a log or of a process' output, None where there is none."""
    errors = _ERROR.findall(text)
    return errors[-1].strip() if errors else None


def last_line(text: str) -> str:
    """The last line that is not blank; empty where there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
