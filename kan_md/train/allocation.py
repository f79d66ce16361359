"""Memory of one step's tensors for those of the next."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
_NO_TRIM, _LARGEST = 2**31 - 1, 2**30
_LARGEST_OF_OLD = 2**25  # what glibc before 2.35 takes at most
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Let glibc keep what is freed instead of giving it back to the system.

    A step of training makes and drops the same large tensors as the one before. Given back each
    time, their pages come again one fault at a time, full of zeros: a tenth of a step of a MACE or
    a NequIP. What a process takes at its peak stays as it is. Elsewhere, and where the environment
    says how malloc works, nothing happens.
    """
    if any(name in os.environ for name in _VARIABLES):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return
    mallopt(_TRIM_THRESHOLD, _NO_TRIM)
    if not mallopt(_MMAP_THRESHOLD, _LARGEST):
        mallopt(_MMAP_THRESHOLD, _LARGEST_OF_OLD)
