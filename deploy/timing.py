"""Comparing functions by the clock on a machine that does other things too."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence


def median_times(
    functions: Sequence[Callable[[], object]], *, rounds: int = 15, warm_up: int = 4
) -> list[float]:
    """Median seconds per call of each function, measured in turns.

    Args:
        functions: called without arguments.
        rounds: calls of each that count.
        warm_up: calls of each before; TorchScript compiles during the first few.
    """
    for function in functions:
        for _ in range(warm_up):
            function()
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for found, function in zip(times, functions, strict=True):
            start = time.perf_counter()
            function()
            found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in times]
