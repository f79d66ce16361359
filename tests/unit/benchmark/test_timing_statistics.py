"""Step times to table entries, on numbers that can be checked by hand."""

import numpy as np
import pytest

from kan_md.benchmark import statistics
from kan_md.benchmark.job import Block, Outcome


def block(step_times, pair_share=0.5):
    total = float(np.sum(step_times))
    phases = {"Pair": pair_share * total, "Comm": (1 - pair_share) * total}
    return Block(steps=len(step_times), loop_time=total, step_times=list(step_times), phases=phases)


def outcome(rank, rss, **device):
    return Outcome(
        rank=rank,
        ranks=2,
        num_atoms=10,
        edges_per_atom=12.0,
        temperature=300.0,
        peak_rss=rss,
        device=device,
    )


def test_times_are_in_ms_and_over_all_blocks():
    times = statistics.condense([block([1e-3, 2e-3, 3e-3]), block([5e-3, 5e-3, 5e-3])])
    assert times.median == pytest.approx(4.0)
    assert times.mean == pytest.approx(21.0 / 6)
    assert times.p95 == pytest.approx(5.0)
    assert times.error == pytest.approx(np.std([2.0, 5.0], ddof=1))


def test_a_single_block_has_no_error():
    assert statistics.condense([block([1e-3, 1e-3])]).error == 0.0


def test_drift_of_the_machine_cancels_in_the_ratio():
    speeds = [1.0, 2.0, 4.0]  # the machine gets slower from round to round
    control = [block([s * 1e-3] * 5) for s in speeds]
    model = [block([0.5 * s * 1e-3] * 5) for s in speeds]
    ratio, error = statistics.ratio_to(model, control)
    assert ratio == pytest.approx(0.5)
    assert error == pytest.approx(0.0, abs=1e-12)


def test_phases_are_shares_of_the_whole_loop_time():
    shares = statistics.phase_shares([block([1e-3] * 4, 0.25), block([3e-3] * 4, 0.75)])
    assert shares == pytest.approx({"Pair": (0.25 * 4 + 0.75 * 12) / 16, "Comm": 6 / 16})


def test_speed_agrees_with_what_lammps_prints():
    # From a LAMMPS log: 300 steps of 1 fs in 0.0192589 s, "Performance: 1345.874 ns/day"
    ms = 0.0192589 / 300 * 1e3
    assert statistics.ns_per_day(ms, timestep=1.0) == pytest.approx(1345.874, rel=1e-5)


def test_memory_is_of_the_largest_rank_and_the_driver_counts_all():
    mib = 2**20
    rss, device = statistics.memory_rows(
        [
            outcome(0, 100 * mib, cuda_peak_allocated=5 * mib, driver=7 * mib),
            outcome(1, 150 * mib, cuda_peak_allocated=6 * mib, driver=8 * mib),
        ]
    )
    assert rss == 150
    assert device == {"cuda_peak_allocated": 6, "driver": 15}
