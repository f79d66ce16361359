"""Finds the build that fits this environment; runs nothing, writes nothing, imports no torch.

A build is found by a name that holds everything it depends on. There is no pointer to "the build in
use": environments that share a home would point it to each other's.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from kan_md.builds.cache import cache_dir, is_whole, made_of, shared_dir
from kan_md.builds.toolchain import Toolchain, find_toolchain, torch_version_file
from kan_md.errors import KanMdError

_NEEDED = ("LAMMPS", "torch", "kind of processor", "C library")
"""What must be the same where a build is to run."""
SOURCE_SUFFIXES = (".cpp", ".h", ".txt", ".cu")


def find_build() -> Path | None:
    """Folder of the plug-in for this torch, LAMMPS and environment and these sources.

    Looks in the user's cache, then beside the environment.

    Returns:
        The folder, or None where none was built, its files are damaged, or a package is missing.
    """
    try:
        return find_whole(build_name(find_toolchain()))
    except KanMdError:
        return None


def find_whole(name: str) -> Path | None:
    """Folder of a build by its name, or None where there is none or its files are damaged."""
    return next((root / name for root in build_dirs() if is_whole(root / name)), None)


def build_dirs() -> tuple[Path, Path]:
    """Where builds may be: the user's own come first."""
    return cache_dir(), shared_dir()


def build_name(toolchain: Toolchain) -> str:
    """Name of a build's folder, which changes with all it depends on."""
    parts = depends_on(toolchain)
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
    version = toolchain.torch_version.replace("+", "-")
    return f"torch-{version}-lammps-{toolchain.lammps.version}-{digest}"


def depends_on(toolchain: Toolchain) -> dict[str, str]:
    """Everything that a build depends on, run paths included, by a name for messages.

    The processor is not among it: a build may have kernels for several levels of this
    machine's kind, and is one build however many it has.
    """
    return {
        "torch": toolchain.torch_version,
        "LAMMPS": toolchain.lammps.version,
        "environment": sys.prefix,
        "folder of torch": str(toolchain.torch_root),
        "folder of LAMMPS": str(toolchain.lammps.root),
        "MPI": str(toolchain.lammps.mpi_library),
        "headers of MPI": str(toolchain.lammps.mpi_include),
        "headers of CUDA": ":".join(map(str, toolchain.cuda_include)),
        # A torch compiled anew under the same version has another revision in it.
        "revision of torch": _digest_of_text(torch_version_file(toolchain.torch_root)),
        "kind of processor": platform.machine(),
        "C library": c_library(),
        "sources of kan-md": _sources_digest(),
    }


def why_none_fits() -> str:
    """What keeps :func:`find_build` from finding a build, for a message.

    Returns:
        A clause without an end, e.g. ``the nearest build is for torch 2.12.0, here is 2.13.0``.
    """
    try:
        toolchain = find_toolchain()
    except KanMdError as error:
        return str(error)
    wanted, name = depends_on(toolchain), build_name(toolchain)
    built = [
        (folder, record)
        for root in build_dirs()
        for folder in sorted(root.glob("torch-*"))
        if (record := made_of(folder)) and record.keys() & wanted.keys()  # or of an older kan-md
    ]
    for folder, _ in built:
        if folder.name == name:
            return f"the one in {folder} is damaged"
    if not built:
        return f"none was built, looked in {' and '.join(map(str, build_dirs()))}"
    misfits = [differences(record, wanted) for _, record in built]
    number = min(range(len(built)), key=lambda n: len(misfits[n]))
    return f"the nearest one, {built[number][0]}, is for {misfits[number][0]}"


def differences(record: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """What a build was made for and what is there instead, the most telling first."""
    return [
        f"{name} {_shown(record.get(name))}, and here is {_shown(value)}"
        for name, value in wanted.items()
        if record.get(name) != value
    ]


def misfit(folder: Path) -> str | None:
    """Why a build that the user names cannot run here.

    Returns:
        A clause such as ``LAMMPS 2024.8.29.1.0, and here is 2025.7.22.4.0``, or None where it can,
        as far as its record says.
    """
    record = made_of(folder)
    if record is None:
        return None
    try:
        here = depends_on(find_toolchain())
    except KanMdError as error:
        return f"another environment: {error}"
    found = differences(record, {name: here[name] for name in _NEEDED if name in record})
    return found[0] if found else None


def _shown(value: str | None) -> str:
    return value or "none"


def _digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _sources_digest() -> str:
    digest = hashlib.sha256()
    for root in (plugin_sources(), operator_sources()):
        for path in source_files(root):
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


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
