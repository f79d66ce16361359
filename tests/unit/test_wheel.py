"""A plain install (no checkout, not editable) has all that the commands need."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEPT = ("py.typed", "*.cpp", "*.h", "CMakeLists.txt", "*.in", "*.yaml", "*.sh", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder with the wheel's content, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    parts = ("kan_md", "deploy", "pair_styles", "lammps_inputs")
    for part in parts:
        shutil.copytree(ROOT / part, folder / "source" / part,
                        ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--no-index", "--target", str(folder / "site"), str(folder / "source")],
        check=True,
        capture_output=True,
    )  # fmt: skip
    shutil.rmtree(folder / "source")
    return folder / "site"


def run(installed, *arguments, cwd):
    """The installed program: its folder comes before that of an editable install."""
    return subprocess.run(
        [sys.executable, str(installed / "bin" / "kan-md"), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in KEPT
        for path in Path(folder).rglob(pattern)
    }


@pytest.mark.parametrize(
    ("package", "folder"),
    [
        ("kan_md_pair_styles", "pair_styles"),
        ("kan_md_deploy", "deploy"),
        ("kan_md_lammps_inputs", "lammps_inputs"),
        ("kan_md", "kan_md"),
    ],
)
def test_every_source_and_input_is_inside(installed, package, folder):
    assert content(installed / package) == content(ROOT / folder)


def test_program_starts_and_lists_its_commands(installed, tmp_path):
    result = run(installed, "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for command in ("train", "deploy", "build", "lmp", "benchmark", "convert", "inspect"):
        assert command in result.stdout


def test_inputs_are_copied_out_of_the_package(installed, tmp_path):
    result = run(installed, "inputs", "here", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert content(tmp_path / "here") == content(ROOT / "lammps_inputs")


def test_both_licences_are_inside(installed):
    (info,) = installed.glob("kan_md-*.dist-info")
    texts = {path.read_text()[:2000] for path in info.rglob("LICENSE*")}
    assert any("MIT" in text for text in texts)
    assert any("GNU GENERAL PUBLIC LICENSE" in text for text in texts)


def test_build_finds_the_sources_of_the_package(installed, tmp_path):
    """Equal sources make an equal plug-in: the cache has it from the checkout's build."""
    here = subprocess.run(
        [sys.executable, "-m", "kan_md", "build", "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    there = run(installed, "build", "--json", cwd=tmp_path)
    assert there.returncode == 0, there.stderr
    assert json.loads(there.stdout) == json.loads(here.stdout)
