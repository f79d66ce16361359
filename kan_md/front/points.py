"""Models as points of cost and error: which of them make the front, and where it bends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FORCES = "forces_mae"
ENERGY = "energy_mae"
_LEAST_BEND = 0.05
"""Of the height of the front: a point that is less below the straight line is no knee."""
_SMALLEST = 1e-12
"""Stands for an error of zero, of which there is no logarithm."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A model that was trained, deployed and timed.

    Attributes:
        name: of its size.
        backbone: e.g. ``mace``.
        time: µs per atom and step in LAMMPS.
        time_error: standard deviation over the turns of the timing, µs.
        errors: of the test part by name, e.g. ``forces_mae``; eV/atom, eV/Å, eV/Å³; None or absent
            where there are no labels.
        parameters: number of weights.
        seconds: of the training.
        epochs: likewise.
        file: deployed model, relative to the folder of the results.
    """

    name: str
    backbone: str
    time: float
    time_error: float
    errors: dict[str, float | None]
    parameters: int
    seconds: float
    epochs: int
    file: str

    def error(self, name: str) -> float:
        """An error of the test part; infinite where it is unknown or no number."""
        value = self.errors.get(name)
        return math.inf if value is None or math.isnan(value) else value


def front_of(points: Sequence[Point], error: str = FORCES) -> list[Point]:
    """Points that no other one beats in both time and error, by rising time.

    Those whose error is not known are left out.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.time, p.error(error))):
        if point.error(error) < (front[-1].error(error) if front else math.inf):
            front.append(point)
    return front


def knee_of(front: Sequence[Point], error: str = FORCES) -> Point | None:
    """Where a front bends: beyond it time buys less accuracy than before it.

    The point farthest below the line between the ends, both axes logarithmic and scaled to the ends
    (Satopää, Albrecht, Irwin, Raghavan 2011, "Finding a Kneedle in a haystack").

    Args:
        front: see :func:`front_of`.
        error: of its axis.

    Returns:
        None where no point lies well below that line, as of fewer than three.
    """
    if len(front) < 3:
        return None
    costs = _shares([point.time for point in front])
    gains = _shares([point.error(error) for point in front])
    depths = [gain - cost for gain, cost in zip(gains, costs, strict=True)]
    deepest = max(range(len(front)), key=depths.__getitem__)
    return front[deepest] if depths[deepest] > _LEAST_BEND else None


def _shares(values: Sequence[float]) -> list[float]:
    """How far along each is from the first value to the last one, by their logarithms."""
    logs = [math.log(max(value, _SMALLEST)) for value in values]
    return [(value - logs[0]) / (logs[-1] - logs[0]) for value in logs]


def budget_of(point: Point, front: Sequence[Point]) -> tuple[float, float] | None:
    """The budgets of time, µs per atom and step, for which a model is the best one.

    Returns:
        From and up to; None of a point that is not on the front.
    """
    if point not in front:
        return None
    place = list(front).index(point)
    return point.time, front[place + 1].time if place + 1 < len(front) else math.inf
