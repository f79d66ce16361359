"""Memory that is freed stays with the process, unless the environment says otherwise."""

import os
import subprocess
import sys

import pytest

_SCRIPT = """
import resource
import numpy as np
from kan_md.train.allocation import keep_freed_memory

keep_freed_memory()
for step in range(12):
    if step == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [np.ones(2**17) for _ in range(16)]  # 1 MiB each, together above what is kept
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
_PAGES = 10 * 16 * 2**20 // os.sysconf("SC_PAGE_SIZE")


def _faults(**variables):
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("MALLOC", "GLIBC"))}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        env=environment | {"OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_memory_is_taken_again_without_page_faults():
    assert _faults() < 0.01 * _PAGES


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_environment_holds():
    assert _faults(MALLOC_MMAP_THRESHOLD_="131072") > 0.5 * _PAGES
