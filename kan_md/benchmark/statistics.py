"""From step times to the numbers of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kan_md.benchmark.job import Block, Outcome

MS = 1e3
SECONDS_PER_DAY = 86400.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model's line of the table; every number is of the timed steps only.

    Attributes:
        label: name of the model.
        readout: kind of its output block.
        backbone: architecture, or the pair style where there is no manifest.
        dtype: of the weights, empty where unknown.
        backend: torchscript or aotinductor, empty for others.
        passes: names of the deploy passes in the file.
        num_atoms: atoms.
        edges_per_atom: mean number of neighbours within r_max.
        steps: timed steps in all.
        ms_per_step: median over steps.
        ms_error: standard deviation of the blocks' medians.
        ms_p95: 95th percentile over steps.
        ms_mean: LAMMPS' loop time over steps, so with every neighbour list build.
        us_per_atom_step: µs, median / atoms.
        ns_per_day: from the mean, as LAMMPS prints it.
        phases: share of the loop time by LAMMPS section, 0..1.
        peak_rss_mib: largest resident set of a rank.
        device_mib: device memory by name, largest over ranks (driver: sum).
        temperature: K at the end.
        cpu_ms_per_step: processor time, ms, of all threads of all ranks; None where not taken.
        ratio: median over blocks of (this block's median / the control's of the same round).
        ratio_error: standard deviation of these.
    """

    label: str
    readout: str
    backbone: str
    dtype: str
    backend: str
    passes: tuple[str, ...]
    num_atoms: int
    edges_per_atom: float
    steps: int
    ms_per_step: float
    ms_error: float
    ms_p95: float
    ms_mean: float
    us_per_atom_step: float
    ns_per_day: float
    phases: dict[str, float]
    peak_rss_mib: float
    device_mib: dict[str, float]
    temperature: float
    cpu_ms_per_step: float | None = None
    ratio: float | None = None
    ratio_error: float | None = None


@dataclass(frozen=True, kw_only=True)
class Times:
    """Step times condensed, in ms."""

    median: float
    error: float
    p95: float
    mean: float


def median_and_spread(values: Sequence[float]) -> list[float]:
    """Median and standard deviation; 0 for a single value."""
    return [float(np.median(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0]


def block_medians(blocks: Sequence[Block]) -> np.ndarray:
    """Median step time of each block, ms, [num_blocks]."""
    return np.array([np.median(block.step_times) * MS for block in blocks])


def condense(blocks: Sequence[Block]) -> Times:
    """Condense all blocks of a model.

    The error is the standard deviation of the blocks' medians: it holds what the machine did
    between blocks, which the spread of steps inside one block does not.
    """
    steps = np.concatenate([block.step_times for block in blocks]) * MS
    total = sum(block.loop_time for block in blocks) * MS
    return Times(
        median=float(np.median(steps)),
        error=_spread(block_medians(blocks)),
        p95=float(np.percentile(steps, 95)),
        mean=float(total / len(steps)),
    )


def ratio_to(blocks: Sequence[Block], control: Sequence[Block]) -> tuple[float, float]:
    """Ratio of step times, round by round, so that slow drifts of the machine cancel.

    Returns:
        Median over rounds and standard deviation over rounds.
    """
    ratios = block_medians(blocks) / block_medians(control)
    return float(np.median(ratios)), _spread(ratios)


def phase_shares(blocks: Sequence[Block]) -> dict[str, float]:
    """Share of each LAMMPS section in the loop time of all blocks."""
    total = sum(block.loop_time for block in blocks)
    names = dict.fromkeys(name for block in blocks for name in block.phases)
    return {name: sum(b.phases.get(name, 0.0) for b in blocks) / total for name in names}


def memory_rows(outcomes: Sequence[Outcome]) -> tuple[float, dict[str, float]]:
    """Peak resident set of the largest rank and device memory, MiB."""
    mib = 2.0**20
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.device)
    device = {}
    for name in names:
        values = [outcome.device.get(name, 0) / mib for outcome in outcomes]
        device[name] = sum(values) if name == "driver" else max(values)
    return max(outcome.peak_rss for outcome in outcomes) / mib, device


def ns_per_day(ms: float, *, timestep: float) -> float:
    """Simulated ns per day at a step of `timestep` fs that takes `ms`."""
    return SECONDS_PER_DAY * MS / ms * timestep * 1e-6


def _spread(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
