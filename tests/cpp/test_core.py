"""Builds and runs test_core.cpp: archive, seal, manifest and graph without torch and LAMMPS."""

import random
import subprocess
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest

from kan_md.lammps.toolchain import find_compiler

CORE = ("archive", "graph", "images", "inflate", "manifest", "seal")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    sources = Path(str(files("kan_md_pair_styles")))
    path = tmp_path_factory.mktemp("cpp") / "test_core"
    subprocess.run(
        [
            *(find_compiler(), "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-fopenmp"),
            *("-I", str(sources), str(Path(__file__).with_suffix(".cpp"))),
            *(str(sources / "core" / f"{name}.cpp") for name in CORE),
            *("-o", str(path)),
        ],
        check=True,
    )
    return path


@pytest.mark.parametrize("level", [1, 9])
def test_core(program, level, tmp_path):
    generator = random.Random(0)
    text = "".join(generator.choice("abcde \n") for _ in range(20000)) + "repeat " * 5000
    (tmp_path / "expected.txt").write_bytes(text.encode())
    with zipfile.ZipFile(tmp_path / "archive.zip", "w", compresslevel=level) as archive:
        archive.writestr("model/stored.txt", text)
        archive.writestr("model/deflated.txt", text, compress_type=zipfile.ZIP_DEFLATED)
    result = subprocess.run(
        [program, "archive.zip", "expected.txt"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "")
