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

from kan_md.builds.lammps import Lammps, find_lammps
from kan_md.errors import user_error

MINIMUM_COMPILERS = {"g++": 12, "clang++": 14}
"""First versions with all of C++20 and of the vector built-ins that the sources use."""


_CUDA_HEADERS = ("cuda_runtime_api.h", "crt/host_config.h")


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """Paths and versions that a build depends on.

    Attributes:
        torch_root: folder of the torch package.
        torch_version: e.g. ``2.13.0+cpu``.
        lammps: the LAMMPS, with its MPI.
        cuda_include: folders of CUDA's headers, where this torch knows CUDA and they are whole.
    """

    torch_root: Path
    torch_version: str
    lammps: Lammps
    cuda_include: tuple[Path, ...] = ()


def find_toolchain() -> Toolchain:
    """Find torch in this Python environment, and LAMMPS there or where the user says.

    Raises:
        KanMdError: a package or one of its files is missing.
    """
    torch_root = _package_root("torch", "install torch, e.g. pip install torch")
    return Toolchain(
        torch_root=torch_root,
        torch_version=_torch_version(torch_root),
        lammps=find_lammps(),
        cuda_include=find_cuda_headers(torch_root) if knows_cuda(torch_root) else (),
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
        f"install g++ >= {MINIMUM_COMPILERS['g++']} (Debian and Ubuntu: apt install g++; conda: "
        "conda install gxx; on a cluster: module load gcc) or name a compiler in the variable CXX"
    )
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    found = next((path for name in candidates if (path := shutil.which(name))), None)
    if not found:
        raise user_error(
            "building the plug-in needs a C++ compiler",
            found=f"no {' or '.join(candidates)}",
            allowed=None,
            remedy=remedy,
        )
    text = _first_line_of_version(found)
    kind = "clang++" if "clang" in text.lower() else "g++"
    version = re.search(r"\b(\d+)\.\d+(\.\d+)?", text)
    if version and int(version[1]) < MINIMUM_COMPILERS[kind]:
        raise user_error(
            f"building the plug-in needs {kind} >= {MINIMUM_COMPILERS[kind]}",
            found=f"{found} {version[0]}",
            allowed=None,
            remedy=remedy,
        )
    return found


def _first_line_of_version(compiler: str) -> str:
    """What a compiler calls itself; a program that cannot run says nothing, and CMake will tell."""
    try:
        said = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return said.stdout.partition("\n")[0]


def knows_cuda(torch_root: Path) -> bool:
    """Whether a torch is a CUDA build."""
    return (torch_root / "lib" / "libtorch_cuda.so").is_file()


def missing_cuda_headers(toolchain: Toolchain) -> str | None:
    """What to say where torch knows CUDA but its headers are not there; None where all is well."""
    if toolchain.cuda_include or not knows_cuda(toolchain.torch_root):
        return None
    version = torch_cuda_version(toolchain.torch_root) or "13"
    major = version.partition(".")[0]
    packages = (
        "nvidia-cuda-runtime-cu12 nvidia-cuda-nvcc-cu12"
        if major == "12"
        else "nvidia-cuda-runtime nvidia-cuda-crt"
    )
    return (
        f"no headers of CUDA {version}, so GPUs will not replay steps; run: "
        f"pip install {packages}, or set CUDA_HOME; then: kan-md build"
    )


def find_cuda_headers(torch_root: Path) -> tuple[Path, ...]:
    """Folders that hold CUDA's headers together.

    Looks where ``CUDA_HOME`` points, in /usr/local/cuda, and in packages beside torch: those of
    CUDA 13 hold all in one folder, those of CUDA 12 have one folder each. Headers of another major
    version than torch's are passed over.

    Returns:
        As few folders as have everything, or none where something is missing.
    """
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    beside = sorted((torch_root.parent / "nvidia").glob("*/include"))
    wanted = (torch_cuda_version(torch_root) or "").partition(".")[0]
    beside = [folder for folder in beside if _fits_cuda(folder, wanted)]
    for group in ([Path(home) / "include"], *([folder] for folder in beside), beside):
        first = [next((f for f in group if (f / name).is_file()), None) for name in _CUDA_HEADERS]
        if None not in first and _fits_cuda(group[0], wanted):
            return tuple(dict.fromkeys(folder for folder in first if folder))
    return ()


def _fits_cuda(folder: Path, wanted: str) -> bool:
    """Whether headers are of a major version, as far as they and torch say."""
    header = folder / _CUDA_HEADERS[0]
    return not wanted or not header.is_file() or _cuda_major(header) in ("", wanted)


def _cuda_major(header: Path) -> str:
    """First part of the version that cuda_runtime_api.h states (13000 is 13.0), or nothing."""
    match = re.search(
        r"^#define CUDART_VERSION\s+(\d+)\d{3}", header.read_text(errors="replace"), re.MULTILINE
    )
    return match[1] if match else ""


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


def find_torch_version() -> str | None:
    """Version of the torch of this environment as it names itself, e.g. ``2.13.0+cpu``."""
    spec = find_spec("torch")
    return _torch_version(Path(spec.origin).parent) if spec and spec.origin else None


def torch_cuda_version(root: Path) -> str | None:
    """CUDA version that a torch was built with, e.g. ``12.6``; None for a build without."""
    match = re.search(r"^cuda\b[^=]*= '([^']+)'", torch_version_file(root), re.MULTILINE)
    return match[1] if match else None


def _torch_version(root: Path) -> str:
    match = re.search(r"__version__ = '([^']+)'", torch_version_file(root))
    return match[1] if match else metadata.version("torch")


def torch_version_file(root: Path) -> str:
    """Text of torch's version.py: version, revision, CUDA."""
    try:
        return (root / "version.py").read_text()
    except OSError:
        return ""
