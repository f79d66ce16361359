"""Builds the LAMMPS plug-in once per (torch, LAMMPS, sources, processor) into the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from kan_md.errors import KanMdError, user_error
from kan_md.files import write_text
from kan_md.lammps.cache import PLUGIN_NAME, cache_dir, current_link, processor_key
from kan_md.lammps.toolchain import (
    Toolchain,
    find_compiler,
    find_program,
    find_toolchain,
    torch_cxx11_abi,
)

SOURCE_SUFFIXES = (".cpp", ".h", ".txt", ".cu")


def build_plugin(
    *, force: bool = False, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Compile the plug-in unless the cache has it, and make it the one in use.

    Args:
        force: compile even where the cache has this very build.
        progress: called with (steps done, steps in all) while compiling.

    Returns:
        Directory that holds ``kanmdplugin.so``; a ``LAMMPS_PLUGIN_PATH``.

    Raises:
        KanMdError: a compiler, CMake or a package is missing, compiling failed, or the cache cannot
            be written.
    """
    toolchain = find_toolchain()
    target = cache_dir() / _key(toolchain)
    try:
        if force or not (target / PLUGIN_NAME).is_file():
            with _locked():
                if force or not (target / PLUGIN_NAME).is_file():
                    _build(toolchain, target, force=force, progress=progress)
        _point_to(target)
    except OSError as error:
        raise user_error(
            "the cache must be writable",
            found=f"{error.strerror} at {error.filename or cache_dir()}",
            allowed=None,
            remedy="set the variable KAN_MD_CACHE to a folder that is",
        ) from error
    return target


def plugin_sources() -> Path:
    """Folder of the C++ sources: of the checkout, or of the installed wheel."""
    return Path(str(files("kan_md_pair_styles")))


def operator_sources() -> Path:
    """Folder of the C++ sources of the fused operators."""
    return Path(str(files("kan_md") / "ops"))


def _source_files() -> list[Path]:
    return [
        path
        for folder in (plugin_sources(), operator_sources())
        for path in sorted(folder.rglob("*"))
        if path.suffix in SOURCE_SUFFIXES and path.is_file()
    ]


def _work_key(toolchain: Toolchain) -> str:
    text = f"{toolchain}{plugin_sources()}{operator_sources()}{processor_key()}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _key(toolchain: Toolchain) -> str:
    """Folder name that changes with everything a build depends on, run paths included."""
    digest = hashlib.sha256(repr(toolchain).encode())
    for path in _source_files():
        digest.update(path.name.encode() + path.read_bytes())
    digest.update(processor_key().encode())
    version = toolchain.torch_version.replace("+", "-")
    return f"torch-{version}-lammps-{toolchain.lammps_version}-{digest.hexdigest()[:12]}"


def _build(
    toolchain: Toolchain,
    target: Path,
    *,
    force: bool,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Compile in a work folder that is kept, so that changed sources alone compile again."""
    work = cache_dir() / "work" / _work_key(toolchain)
    if force:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"NINJA_STATUS": "[%f/%t] "}
    _call(_configure_command(toolchain, work), environment, None)
    _call([find_program("cmake"), "--build", str(work)], environment, progress)
    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix=".new-") as folder:
        new = Path(folder) / "lib"
        shutil.copytree(work / "lib", new)
        what = {key: str(value) for key, value in vars(toolchain).items()}
        write_text(new / "build.json", json.dumps(what, indent=1))
        if target.exists():
            target.rename(Path(folder) / "old")
        new.rename(target)


@contextmanager
def _locked() -> Iterator[None]:
    """Hold the cache for this process: test workers and MPI scripts may ask at the same time."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    with (cache_dir() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _configure_command(toolchain: Toolchain, build: Path) -> list[str]:
    settings = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CXX_COMPILER": find_compiler(),
        "CMAKE_MAKE_PROGRAM": find_program("ninja"),
        "KAN_MD_LAMMPS_INCLUDE": toolchain.lammps_root / "include" / "lammps",
        "KAN_MD_LAMMPS_LIBRARY": toolchain.lammps_root / "liblammps.so.0",
        "KAN_MD_MPI_INCLUDE": toolchain.mpi_include,
        "KAN_MD_MPI_LIBRARY": toolchain.mpi_library,
        "KAN_MD_TORCH_ROOT": toolchain.torch_root,
        "KAN_MD_TORCH_CXX11_ABI": torch_cxx11_abi(),
        "KAN_MD_OPS_SOURCE": operator_sources(),
    }
    if toolchain.cuda_include:
        settings["KAN_MD_CUDA_INCLUDE"] = toolchain.cuda_include
    options = [f"-D{key}={value}" for key, value in settings.items()]
    return [
        find_program("cmake"),
        *("-G", "Ninja", "-S", str(plugin_sources()), "-B", str(build)),
        *options,
    ]


def _call(
    command: list[str],
    environment: dict[str, str],
    progress: Callable[[int, int], None] | None,
) -> None:
    lines: list[str] = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    ) as process:
        assert process.stdout is not None, "asked for above"
        for line in process.stdout:
            lines.append(line)
            done, slash, total = line.partition("]")[0].lstrip("[").partition("/")
            if progress and slash and done.isdigit() and total.isdigit():
                progress(int(done), int(total))
    if process.returncode != 0:
        log = cache_dir() / "build.log"
        write_text(log, " ".join(command) + "\n" + "".join(lines))
        raise KanMdError(
            f"building the plug-in failed, got: {_cause(lines)}; the whole log is in {log}; "
            "mend the cause and run: kan-md build --force"
        )


def _cause(lines: list[str]) -> str:
    """The first two lines of the first error in a log, as one."""
    said = [line.strip() for line in lines if line.strip()]
    first = next((n for n, line in enumerate(said) if "error" in line.lower()), len(said) - 1)
    return " ".join(said[first : first + 2])


def _point_to(target: Path) -> None:
    """Make ``target`` the plug-in that plain ``lmp`` loads, in one step."""
    link = current_link()
    if link.is_symlink() and link.readlink() == Path(target.name):
        return
    temporary = link.with_name(f"{link.name}.{os.getpid()}")
    temporary.symlink_to(target.name)
    temporary.replace(link)
