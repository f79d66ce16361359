"""Finds the build that fits this environment; runs nothing, writes nothing, imports no torch.

A build is found by a name that holds everything it depends on. There is no pointer to "the build in
use": environments that share a home would point it to each other's.
"""

from __future__ import annotations

import hashlib
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from kan_md.builds.cache import cache_dir, is_whole, processor_key
from kan_md.builds.toolchain import Toolchain, find_toolchain, torch_version_file
from kan_md.errors import KanMdError

SOURCE_SUFFIXES = (".cpp", ".h", ".txt", ".cu")


def find_build() -> Path | None:
    """Folder of the plug-in for this torch, LAMMPS, environment and processor and these sources.

    Returns:
        The folder, or None where none was built, its files are damaged, or a package is missing.
    """
    try:
        folder = build_folder(find_toolchain())
    except KanMdError:
        return None
    return folder if is_whole(folder) else None


def build_folder(toolchain: Toolchain) -> Path:
    """Folder of the build in the cache, there or not: its name changes with all it depends on."""
    digest = hashlib.sha256(environment_text(toolchain).encode())
    for root in (plugin_sources(), operator_sources()):
        for path in source_files(root):
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    version = toolchain.torch_version.replace("+", "-")
    name = f"torch-{version}-lammps-{toolchain.lammps_version}-{digest.hexdigest()[:12]}"
    return cache_dir() / name


def environment_text(toolchain: Toolchain) -> str:
    """Everything besides the sources that a build depends on, run paths included."""
    return "\n".join(
        [
            repr(toolchain),
            # A torch compiled anew under the same version has another revision in it.
            torch_version_file(toolchain.torch_root),
            sys.prefix,
            processor_key(),
            c_library(),
        ]
    )


def c_library() -> str:
    """Version of the C library: a home may be shared by machines with different systems."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):  # another C library
        return ""


def plugin_sources() -> Path:
    """Folder of the C++ sources: of the checkout, or of the installed wheel."""
    return package_folder("kan_md_pair_styles")


def operator_sources() -> Path:
    """Folder of the C++ sources of the fused operators."""
    return package_folder("kan_md") / "ops"


def package_folder(name: str) -> Path:
    """Folder of one of our packages, without importing it.

    Raises:
        KanMdError: it is not installed.
    """
    spec = find_spec(name)
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders:
        raise KanMdError(f"kan-md is not whole, got no package {name}; run: pip install kan-md")
    return Path(folders[0])


def source_files(folder: Path) -> list[Path]:
    """C++ and CMake files below a folder, sorted."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in SOURCE_SUFFIXES and path.is_file()
    ]
