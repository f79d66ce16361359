"""The allocator keeps large blocks, unless the user wants the system's behaviour."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from kan_md.allocator import SWITCH

# mallinfo2 of glibc >= 2.33: hblkhd counts bytes mapped by block, fordblks what is free but kept.
PROGRAM = """
import ctypes, json, torch
from kan_md.allocator import tune_allocator
names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
Info = type("Info", (ctypes.Structure,), {"_fields_": [(n, ctypes.c_size_t) for n in names]})
mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Info
tuned = tune_allocator()
block = torch.ones(10_000_000)
mapped = mallinfo().hblkhd
del block
print(json.dumps([tuned, mapped, mallinfo().fordblks]))
"""
BLOCK = 40_000_000  # bytes; above the largest threshold that glibc chooses by itself, 32 MiB


def allocate(choice: str) -> tuple[bool, int, int]:
    """Whether the allocator was tuned, bytes mapped for a block, bytes kept after freeing it."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {SWITCH: choice},
        check=True,
        capture_output=True,
        text=True,
    )
    return tuple(json.loads(done.stdout))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_tuned_allocator_keeps_large_blocks():
    tuned, mapped, kept = allocate("tuned")
    assert tuned
    assert mapped < BLOCK
    assert kept >= BLOCK


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_system_allocator_is_left_alone():
    tuned, mapped, kept = allocate("system")
    assert not tuned
    assert mapped >= BLOCK
    assert kept < BLOCK
