"""What a few seeds say: means with standard errors, and differences of pairs of equal seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: of the values.
        error: standard error of the mean, s/√n with s of n - 1 degrees of freedom; None for n < 2.
        number: n.
    """

    mean: float
    error: float | None
    number: int

    def text(self, digits: int = 3) -> str:
        """``12.3 ± 0.4``; the error is left out where there is none."""
        large = abs(self.mean) >= 10**digits  # no 1.09e+03
        mean = f"{self.mean:.0f}" if large else f"{self.mean:#.{digits}g}".rstrip(".")
        if self.error is None:
            return mean
        decimals = len(mean.partition(".")[2])
        return f"{mean} ± {self.error:.{decimals}f}"

    def percent(self) -> str:
        """A relative change: ``-12.3 ± 1.5 %``."""
        error = "" if self.error is None else f" ± {100 * self.error:.1f}"
        return f"{100 * self.mean:+.1f}{error} %"

    @property
    def sigmas(self) -> float | None:
        """Distance of the mean from zero in standard errors; None without one."""
        if self.error is None:
            return None
        return math.inf if self.error == 0.0 else self.mean / self.error


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and standard error; None of nothing."""
    if not values:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(statistics.mean(values), error, len(values))


def paired_change(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """Relative change from `theirs` to `ours` over the seeds that both have.

    What a seed does to both (the order of the batches, the weights that are the same) leaves the
    difference, so it is known better than either mean.

    Args:
        ours: values by seed.
        theirs: values by seed, > 0.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    return estimate([ours[seed] / theirs[seed] - 1 for seed in seeds])
