"""Builds of several environments in one cache: each finds its own, and only a whole one."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from kan_md.builds import find, levels
from kan_md.builds.cache import PLUGIN_NAME, RECORD, cache_dir, is_whole, shared_dir
from kan_md.builds.kernels import OPERATORS_NAME as OPERATORS
from kan_md.builds.kernels import built_levels, kernels_name
from kan_md.builds.lammps import Lammps
from kan_md.builds.toolchain import Toolchain
from kan_md.errors import KanMdError
from kan_md.lammps import build
from kan_md.lammps.build import build_plugin
from kan_md.ops import library


class Environment:
    """A Python environment that only exists for the cache."""

    def __init__(self, root, monkeypatch, *, torch="2.13.0+cpu", lammps="2025.7.22.4.0"):
        self.monkeypatch = monkeypatch
        self.root = root
        self.install(torch=torch, lammps=lammps)

    def install(self, *, torch, lammps):
        (self.root / "torch").mkdir(parents=True, exist_ok=True)
        (self.root / "torch" / "version.py").write_text(f"__version__ = '{torch}'\n")
        self.toolchain = Toolchain(
            torch_root=self.root / "torch",
            torch_version=torch,
            lammps=Lammps(
                root=self.root / "lammps",
                version=lammps,
                include=self.root / "lammps" / "include" / "lammps",
                library=self.root / "lammps" / "liblammps.so.0",
                program=self.root / "lammps" / "lmp",
                mpi_include=self.root / "include",
                mpi_library=self.root / "lib" / "libmpi.so.12",
            ),
        )

    def activate(self):
        """Let this process be one of the environment."""
        self.monkeypatch.setattr(sys, "prefix", str(self.root))
        for module in (build, find):
            self.monkeypatch.setattr(module, "find_toolchain", lambda: self.toolchain)
        return self


@pytest.fixture(autouse=True)
def compiled(tmp_path, monkeypatch):
    """The cache is empty, and compiling writes down for whom; returns the list of compilations."""
    monkeypatch.setenv("KAN_MD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(library.OVERRIDE, raising=False)
    monkeypatch.delenv(levels.LEVELS_VARIABLE, raising=False)
    done = []

    def compile(toolchain, work, compiler, levels, progress):
        folder = work / "lib"
        folder.mkdir(exist_ok=True)
        for name in (PLUGIN_NAME, OPERATORS, *map(kernels_name, levels)):
            (folder / name).write_text(f"{name} for {toolchain}")
        done.append(toolchain)
        return folder

    monkeypatch.setattr(build, "_compile", compile)
    return done


@pytest.fixture
def environments(tmp_path, monkeypatch):
    """Makes environments by name."""
    return lambda name, **versions: Environment(tmp_path / name, monkeypatch, **versions)


def test_two_environments_share_a_cache_and_each_has_its_own_build(environments, compiled):
    first = environments("first")
    others = [
        environments("other torch", torch="2.14.1+cu130"),
        environments("other lammps", lammps="2025.7.22.2.0"),
        environments("same versions, other place"),
    ]
    first.activate()
    mine = build_plugin()
    for number, other in enumerate(others, 2):
        other.activate()
        assert find.find_build() is None
        assert not library.is_built()
        theirs = build_plugin()
        assert theirs != mine
        assert len(compiled) == number
        assert str(other.toolchain) in library.library_path().read_text()
        first.activate()
        assert find.find_build() == build_plugin() == mine
        assert library.library_path() == mine / OPERATORS
        assert str(first.toolchain) in library.library_path().read_text()
    assert len(compiled) == len(others) + 1


def test_an_environment_over_another_has_a_build_of_its_own(environments, monkeypatch):
    """A venv with --system-site-packages: the same torch and LAMMPS, another sys.prefix."""
    below = environments("below").activate()
    build_plugin()
    monkeypatch.setattr(sys, "prefix", str(below.root / "over"))
    assert find.find_build() is None


def test_torch_that_was_upgraded_in_place_is_built_for_again(environments, compiled):
    environment = environments("one").activate()
    before = build_plugin()
    environment.install(torch="2.14.1+cpu", lammps="2025.7.22.4.0")
    assert find.find_build() is None
    assert build_plugin() != before
    environment.install(torch="2.13.0+cpu", lammps="2025.7.22.4.0")
    assert build_plugin() == before
    assert len(compiled) == 2


def test_a_torch_compiled_anew_under_its_old_version_is_another(environments):
    environment = environments("one").activate()
    before = build_plugin()
    with (environment.root / "torch" / "version.py").open("a") as file:
        file.write("git_version = 'abc'\n")
    assert find.find_build() is None
    assert build_plugin() != before


def test_another_c_library_and_kind_of_processor_have_builds_of_their_own(
    environments, monkeypatch
):
    """A home that machines of different kinds share."""
    environments("one").activate()
    folders = [build_plugin()]
    monkeypatch.setattr(find, "c_library", lambda: "glibc 2.28")
    folders.append(build_plugin())
    monkeypatch.setattr(find.platform, "machine", lambda: "aarch64")
    folders.append(build_plugin())
    assert len(set(folders)) == 3
    assert built_levels(folders[2]) == ["aarch64"]


def test_a_build_serves_processors_with_other_flags(environments, monkeypatch):
    """A login node and a compute node: what /proc/cpuinfo says is no part of the name."""
    environments("one").activate()
    folder = build_plugin()

    def refuse(self, *arguments, **options):
        assert "cpuinfo" not in str(self)
        return real(self, *arguments, **options)

    real = Path.open
    monkeypatch.setattr(Path, "open", refuse)
    assert find.find_build() == folder


def test_a_build_has_this_processors_level_and_those_that_are_asked_for_are_added(
    environments, monkeypatch, compiled
):
    environments("one").activate()
    monkeypatch.setattr(build, "native_levels", lambda: ("x86-64-v3",))
    folder = build_plugin()
    assert built_levels(folder) == ["x86-64-v3"]
    assert build_plugin(levels="x86-64-v2") == folder
    assert built_levels(folder) == ["x86-64-v2", "x86-64-v3"]
    assert build_plugin(levels="all") == find.find_build() == folder
    assert built_levels(folder) == sorted(levels.X86_64)
    for asked in ("x86-64-v3 x86-64-v2", "all", None):
        assert build_plugin(levels=asked) == folder
    assert len(compiled) == 3


def test_the_variable_asks_for_levels_wherever_a_build_is_made(environments, monkeypatch):
    environments("one").activate()
    monkeypatch.setenv(levels.LEVELS_VARIABLE, "x86-64-v2,x86-64-v4")
    assert built_levels(build_plugin()) == ["x86-64-v2", "x86-64-v4"]
    assert built_levels(build_plugin(levels="x86-64-v3")) == sorted(levels.X86_64)


def test_kernels_left_in_the_work_folder_are_no_part_of_a_build(environments, monkeypatch):
    environments("one").activate()
    folder = build_plugin(levels="x86-64-v2")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert build_plugin(levels="x86-64-v3") == folder
    assert built_levels(folder) == ["x86-64-v3"]


def test_a_shared_build_is_found_by_whoever_has_none(environments, tmp_path, monkeypatch, compiled):
    environment = environments("one").activate()
    shared = build_plugin(shared=True)
    assert shared.parent == shared_dir()
    assert shared.is_relative_to(environment.root)
    monkeypatch.setenv("KAN_MD_CACHE", str(tmp_path / "of another user"))
    assert find.find_build() == build_plugin() == library.library_path().parent == shared
    assert not (tmp_path / "of another user").exists()  # who may not be able to write
    mine = build_plugin(force=True)
    assert mine.parent == cache_dir()
    assert find.find_build() == mine
    assert len(compiled) == 2


def test_an_environment_that_cannot_be_written_is_told(environments, tmp_path, monkeypatch):
    environments("one").activate()
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "file"))
    with pytest.raises(KanMdError, match=r"environment must be writable, got Not a dir.*--shared"):
        build_plugin(shared=True)


def test_why_no_build_fits_is_told(environments):
    environment = environments("one").activate()
    assert f"none was built, looked in {cache_dir()} and {shared_dir()}" in find.why_none_fits()
    folder = build_plugin()
    (folder / PLUGIN_NAME).write_text("cut")
    assert find.why_none_fits() == f"the one in {folder} is damaged"
    environment.install(torch="2.14.1+cpu", lammps="2025.7.22.4.0")
    said = f"the nearest one, {folder}, is for torch 2.13.0+cpu, and here is 2.14.1+cpu"
    assert find.why_none_fits() == said
    environment.install(torch="2.13.0+cpu", lammps="2024.8.29.4.0")
    assert "is for LAMMPS 2025.7.22.4.0, and here is 2024.8.29.4.0" in find.why_none_fits()


def test_a_named_build_that_cannot_run_here_is_told(environments, monkeypatch):
    environment = environments("one").activate()
    folder = build_plugin()
    assert find.misfit(folder) is None
    assert find.misfit(folder.parent) is None  # without a record: LAMMPS will tell
    environment.install(torch="2.13.0+cpu", lammps="2024.8.29.4.0")
    assert find.misfit(folder) == "LAMMPS 2025.7.22.4.0, and here is 2024.8.29.4.0"


def test_changed_sources_are_built_again(environments, tmp_path, monkeypatch):
    (tmp_path / "sources" / "core").mkdir(parents=True)
    (tmp_path / "sources" / "core" / "a.cpp").write_text("int a;")
    monkeypatch.setattr(find, "plugin_sources", lambda: tmp_path / "sources")
    environments("one").activate()
    before = build_plugin()
    (tmp_path / "sources" / "core" / "a.cpp").write_text("int b;")
    assert find.find_build() is None
    changed = build_plugin()
    assert changed != before
    (tmp_path / "sources" / "core" / "a.cpp").rename(tmp_path / "sources" / "a.cpp")
    assert find.find_build() is None


def test_a_build_of_an_environment_that_has_gone_is_never_taken(environments, compiled):
    gone = environments("gone").activate()
    build_plugin()
    (gone.root / "torch" / "version.py").unlink()
    environments("new").activate()
    assert find.find_build() is None
    build_plugin()
    assert len(compiled) == 2


@pytest.mark.parametrize("name", [PLUGIN_NAME, OPERATORS, RECORD])
@pytest.mark.parametrize("damage", ["gone", "cut", "empty", "zeros"])
def test_a_damaged_build_is_built_again(name, damage, environments, compiled):
    environments("one").activate()
    file = build_plugin() / name
    content = file.read_bytes()
    damaged = {"cut": content[: len(content) // 2], "empty": b"", "zeros": bytes(len(content))}
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(damaged[damage])
    assert find.find_build() is None
    assert not library.is_built()
    with pytest.raises(KanMdError, match=r"no operator library, .*run: kan-md build$"):
        load_anew()
    assert build_plugin() == file.parent
    assert is_whole(file.parent)
    assert len(compiled) == 2


def load_anew():
    """As in a process that has not loaded the operators."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "_is_registered", lambda: False)
        library.load()


def test_a_read_only_cache_with_the_build_is_enough(environments, tmp_path, monkeypatch):
    environments("one").activate()
    folder = build_plugin()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}

    def refuse(self, *arguments, **options):
        raise OSError(30, "Read-only file system", str(self))

    for name in ("mkdir", "symlink_to", "rename", "replace", "write_text", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    assert build_plugin() == folder
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}


def test_builders_at_the_same_time_compile_once(environments, compiled, capfd):
    environments("one").activate()
    with ThreadPoolExecutor(4) as pool:
        folders = {future.result() for future in [pool.submit(build_plugin) for _ in range(4)]}
    assert len(folders) == len(compiled) == 1
    assert capfd.readouterr().err.count("compiling") == 1


def test_compiling_says_what_how_long_and_where(environments, capfd):
    """Whoever asks: LAMMPS commands and plain Python alike, on a terminal or not."""
    environments("one").activate()
    folder = build_plugin()
    (line,) = capfd.readouterr().err.splitlines()
    assert "compiling the LAMMPS plug-in for torch 2.13.0+cpu and LAMMPS 2025.7.22.4.0" in line
    assert "a few minutes" in line
    assert str(folder) in line
    build_plugin()
    assert capfd.readouterr().err == ""


def test_whoever_waits_for_another_builder_is_told(environments, capfd):
    environments("one").activate()
    with ThreadPoolExecutor(1) as pool:
        with build._locked(cache_dir()):
            future = pool.submit(build_plugin)
            while "waiting for another process" not in capfd.readouterr().err:
                assert not future.done()
        assert is_whole(future.result())


def test_another_mpi_in_the_same_environment_is_built_for_again(environments):
    environment = environments("one").activate()
    before = build_plugin()
    other = replace(environment.toolchain.lammps, mpi_library=Path("/usr/lib/libmpi.so"))
    environment.toolchain = replace(environment.toolchain, lammps=other)
    assert build_plugin() != before
