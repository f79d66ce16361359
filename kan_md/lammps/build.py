"""Builds the LAMMPS plug-in once per (torch, LAMMPS, sources), for a user or for all of them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kan_md.builds.cache import RECORD, cache_dir, file_digest, is_whole, shared_dir
from kan_md.builds.find import (
    build_dirs,
    build_name,
    depends_on,
    operator_sources,
    plugin_sources,
)
from kan_md.builds.kernels import built_levels, kernels_name
from kan_md.builds.levels import asked_levels, in_order, native_levels
from kan_md.builds.settings import cmake_settings
from kan_md.builds.toolchain import Toolchain, find_compiler, find_program, find_toolchain
from kan_md.children import child
from kan_md.errors import KanMdError, user_error
from kan_md.files import write_text
from kan_md.lammps.ranks import is_first_rank

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all) while compiling."""


def build_plugin(
    *,
    force: bool = False,
    shared: bool = False,
    levels: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Compile the plug-in unless there is one that fits this environment.

    Args:
        force: compile even where this very build is there.
        shared: put it beside the Python environment, for all its users, instead of into the user's
            cache.
        levels: of processors that it must have kernels for: ``native``, ``all``, or names. What is
            there keeps its own beside them. Where neither this nor ``KAN_MD_LEVELS`` says so, a
            build of any will do, and a new one is for this processor's.
        progress: told while compiling; without it a line on stderr says what takes so long.

    Returns:
        Directory that holds ``kanmdplugin.so``; a ``LAMMPS_PLUGIN_PATH``.

    Raises:
        KanMdError: a compiler, CMake or a package is missing, compiling failed, a level is unknown,
            or the folder cannot be written.
    """
    toolchain = find_toolchain()
    name = build_name(toolchain)
    root = shared_dir() if shared else cache_dir()
    asked = asked_levels(levels)

    def found() -> Path | None:
        if force:
            return None
        folders = [root] if shared else build_dirs()
        return next((path / name for path in folders if _serves(path / name, asked)), None)

    try:
        folder = found()
        if folder is None:
            with _locked(root):
                folder = found() or _build(
                    toolchain,
                    root / name,
                    levels=in_order([*(asked or native_levels()), *built_levels(root / name)]),
                    force=force,
                    progress=progress,
                )
    except OSError as error:
        raise user_error(
            f"the {'environment' if shared else 'cache'} must be writable",
            found=f"{error.strerror} at {error.filename or root}",
            allowed=None,
            remedy="leave --shared out, or run this as whoever installed it"
            if shared
            else "set the variable KAN_MD_CACHE to a folder that is",
        ) from error
    return folder


def _serves(folder: Path, levels: Sequence[str]) -> bool:
    return is_whole(folder) and set(built_levels(folder)).issuperset(levels)


def _build(
    toolchain: Toolchain,
    target: Path,
    *,
    levels: Sequence[str],
    force: bool,
    progress: Progress | None,
) -> Path:
    """Compile in a work folder that is kept, so that changed sources alone compile again."""
    compiler = find_compiler()
    parts = depends_on(toolchain)
    key = [part for name, part in parts.items() if not name.startswith("sources")]
    key += [compiler, str(plugin_sources()), str(operator_sources())]
    work = cache_dir() / "work" / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    if force:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    if progress is None:
        _say(
            f"compiling the LAMMPS plug-in for torch {toolchain.torch_version} and LAMMPS "
            f"{toolchain.lammps.version}, operators for {', '.join(levels)}, once, which takes a "
            f"few minutes, into {target}"
        )
    libraries = _compile(toolchain, work, compiler, levels, progress)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as folder:
        new = Path(folder) / "lib"
        new.mkdir()
        for path in _libraries(libraries, levels):
            shutil.copy2(path, new)
        write_record(new, parts | {"compiler": compiler})
        if target.exists():
            target.rename(Path(folder) / "old")
        new.rename(target)
    return target


def _libraries(folder: Path, levels: Sequence[str]) -> list[Path]:
    """Files of a build; the work folder may have kernels of levels that are no longer wanted."""
    others = {kernels_name(level) for level in built_levels(folder)} - {*map(kernels_name, levels)}
    return [path for path in folder.iterdir() if path.is_file() and path.name not in others]


def write_record(folder: Path, made_of: Mapping[str, str]) -> None:
    """Complete a build: what it was made of and a digest of each file, all of it on the disk."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    record = {"made_of": dict(made_of), "files": {path.name: file_digest(path) for path in files}}
    write_text(folder / RECORD, json.dumps(record, indent=1))


def _compile(
    toolchain: Toolchain,
    work: Path,
    compiler: str,
    levels: Sequence[str],
    progress: Progress | None,
) -> Path:
    """Run CMake and Ninja in ``work``; returns the folder of the libraries."""
    environment = os.environ | {"NINJA_STATUS": "[%f/%t] "}
    log = work / "build.log"
    _call(_configure_command(toolchain, work, compiler, levels), environment, log, None)
    _call([find_program("cmake"), "--build", str(work)], environment, log, progress)
    return work / "lib"


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold a folder of builds: test workers and MPI scripts may ask at the same time."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
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


def _configure_command(
    toolchain: Toolchain, build: Path, compiler: str, levels: Sequence[str]
) -> list[str]:
    settings = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CXX_COMPILER": compiler,
        "CMAKE_MAKE_PROGRAM": find_program("ninja"),
    } | cmake_settings(toolchain, levels)
    options = [f"-D{key}={value}" for key, value in settings.items()]
    return [
        find_program("cmake"),
        *("-G", "Ninja", "-S", str(plugin_sources()), "-B", str(build)),
        *options,
    ]


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
