"""glibc's allocator thresholds: keep freed memory instead of returning it after every tensor.

By default glibc maps blocks above 128 KiB to 32 MiB afresh and gives the top of the heap back, so
that every large intermediate of a step costs page faults. The plug-in sets the same thresholds.
"""

from __future__ import annotations

import ctypes
import os

SWITCH = "KAN_MD_MALLOC"
"""Environment variable; ``system`` leaves the allocator alone."""

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_LARGE = 1 << 30
_LARGEST_OF_OLD_GLIBC = 32 << 20
_PAD = 64 << 20


def tune_allocator() -> bool:
    """Raise M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_TOP_PAD for this process.

    Returns:
        Whether it was done; false where the C library is not glibc or the user said ``system``.
    """
    if os.environ.get(SWITCH) == "system":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    mapped = libc.mallopt(_MMAP_THRESHOLD, _LARGE) or libc.mallopt(
        _MMAP_THRESHOLD, _LARGEST_OF_OLD_GLIBC
    )
    trimmed = libc.mallopt(_TRIM_THRESHOLD, _LARGE)
    return bool(mapped and trimmed and libc.mallopt(_TOP_PAD, _PAD))
