"""How numbers of a comparison are written."""

from __future__ import annotations

from collections.abc import Sequence

from kan_md.benchmark.statistics import Row

PHASES = ("Pair", "Neigh", "Comm", "Modify", "Output", "Other")
"""LAMMPS' sections of the loop time, in the order of tables and figures."""


def number(value: float | None) -> str:
    """Three significant digits, no exponent; empty for None."""
    if value is None:
        return ""
    return f"{value:.{_decimals(value)}f}" if value else "0"


def plus_minus(value: float, error: float) -> str:
    """A number of three significant digits with its error, both to the same decimal place."""
    return f"{number(value)} ± {error:.{_decimals(value)}f}"


def times_faster(row: Row) -> tuple[float, float] | None:
    """How many times faster than the control a model is, and its error; None without a control."""
    if row.ratio is None or row.ratio_error is None:
        return None
    return 1.0 / row.ratio, row.ratio_error / row.ratio**2


def phases_in(rows: Sequence[Row]) -> list[str]:
    """Sections that took any time."""
    return [name for name in PHASES if any(row.phases.get(name, 0.0) > 0 for row in rows)]


def _decimals(value: float) -> int:
    return 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
