"""How threads and MPI ranks wait for each other: by polling where cores are free, else asleep.

OpenMP's threads and MPICH's ranks poll while they wait, which is fastest where each has a core of
its own. Where they share cores with each other or with other programs, those that wait take the
time that those they wait for need: two threads are then many times slower than one.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

PATIENT_RANKS = {
    "MPIR_CVAR_CH4_PROGRESS_THROTTLE": "1",
    "MPIR_CVAR_CH4_PROGRESS_THROTTLE_NO_PROGRESS_COUNT": "64",
}
"""Settings of MPICH by which a rank that waits leaves its core to others instead of polling."""
PATIENT_THREADS = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
"""The same for threads: of every OpenMP run time, and of Intel's and LLVM's."""

_THREADS_BY_USER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
_SAMPLES = 5
_INTERVAL = 0.002  # s


def patience(
    environment: Mapping[str, str], *, threads: int, ranks: int = 1, running: int = 1
) -> dict[str, str]:
    """Settings for a program that is about to start.

    Args:
        environment: of the user; what it says about waiting is left alone.
        threads: OpenMP threads of each rank.
        ranks: MPI ranks on this machine.
        running: processes of this very program that run now, this one included.

    Returns:
        Variables to set: :data:`PATIENT_RANKS` and :data:`PATIENT_THREADS`, less what the user has
        set, where threads times ranks are more than the free cores; else none.
    """
    wanted = threads * ranks
    if wanted <= 1 or wanted <= free_cores(running=running):
        return {}
    settings = dict(PATIENT_RANKS) if ranks > 1 else {}
    if threads > 1 and not any(name in environment for name in _THREADS_BY_USER):
        settings |= PATIENT_THREADS
    return {name: value for name, value in settings.items() if name not in environment}


def let_threads_of_torch_wait() -> None:
    """Set what fits this machine now, for the torch that this process is about to import.

    Does nothing where torch is loaded: OpenMP has read its variables then.
    """
    if "torch" not in sys.modules:
        threads = num_threads(os.environ, default=num_cores())
        os.environ.update(patience(os.environ, threads=threads))


def num_threads(environment: Mapping[str, str], *, default: int) -> int:
    """OpenMP threads that ``OMP_NUM_THREADS`` asks for (its first level), or the default."""
    first = environment.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else default


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_cores(*, running: int = 1) -> int:
    """Cores that this process may use and that nothing else uses now.

    Args:
        running: processes that run now and do not count, this one included.
    """
    # The whole machine's, as is the number of running threads.
    machine = os.cpu_count() or 1
    others = max(0, _running_threads() - running)
    return max(0, min(num_cores(), machine - others))


def _running_threads() -> int:
    """Threads that run or want to, on the whole machine; 0 where the system does not tell."""
    samples = []
    for sample in range(_SAMPLES):
        if sample:
            time.sleep(_INTERVAL)
        try:
            samples.append(int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]))
        except (OSError, ValueError, IndexError):  # no Linux
            return 0
    return sorted(samples)[_SAMPLES // 2]
