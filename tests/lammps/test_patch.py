"""patch_lammps.sh: guarded, idempotent, reversible."""

import platform
import re
import subprocess
from importlib.resources import files
from importlib.util import find_spec

import pytest

from kan_md.builds.kernels import built_levels
from kan_md.builds.toolchain import find_program
from kan_md.lammps.build import build_plugin

SCRIPT = str(files("kan_md_pair_styles") / "patch_lammps.sh")


@pytest.fixture
def tree(tmp_path):
    """The few files of a LAMMPS source tree that the script looks at."""
    contents = {
        "src/pair.h": "  int centroidstressflag;\n",
        "src/platform.h": "",
        "src/pair_lj_cut.cpp": "// untouched\n",
        "cmake/CMakeLists.txt": "project(lammps CXX)\nadd_library(lammps)\n",
        "lib/README": "",
    }
    for name, text in contents.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "tree"


def patch(*arguments):
    return subprocess.run(
        ["sh", SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def snapshot(tree):
    return {p.relative_to(tree): p.read_bytes() for p in tree.rglob("*") if p.is_file()}


def test_patching_twice_is_patching_once(tree):
    assert patch(tree).returncode == 0
    once = snapshot(tree)
    assert patch(tree).returncode == 0
    assert snapshot(tree) == once
    assert (tree / "src" / "pair_mace.cpp").is_file()
    assert (tree / "lib" / "kan-md" / "core" / "contract.h").is_file()


def test_operators_are_built_with_it_for_every_level_of_processors(tree, tmp_path):
    """What CMake makes of the patched tree; compiling it takes minutes."""
    (tree / "cmake" / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.20)\nproject(lammps CXX)\n"
        "set(LAMMPS_SOURCE_DIR ${CMAKE_CURRENT_SOURCE_DIR}/../src)\n"
        "set(LAMMPS_LIB_SOURCE_DIR ${CMAKE_CURRENT_SOURCE_DIR}/../lib)\n"
        "set(CMAKE_INSTALL_LIBDIR lib)\n"
        "add_library(lammps SHARED ../src/pair_lj_cut.cpp)\n"
    )
    assert patch(tree).returncode == 0
    build = tmp_path / "build"
    options = [
        "-G",
        "Ninja",
        f"-DCMAKE_PREFIX_PATH={find_spec('torch').submodule_search_locations[0]}",
    ]
    command = [find_program("cmake"), "-S", tree / "cmake", "-B", build, *options]
    command.append(f"-DCMAKE_MAKE_PROGRAM={find_program('ninja')}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    plan = (build / "build.ninja").read_text()
    (link,) = re.findall(r"^build liblammps\.so:.*$", plan, re.MULTILINE)
    assert "kan-md-ops/libkan_md_ops.so" in link
    levels = set(re.findall(r"^build kan-md-ops/libkan_md_kernels-(\S+)\.so:", plan, re.MULTILINE))
    built = built_levels(build_plugin())
    assert built and levels >= set(built)
    for level in levels - {platform.machine()}:
        assert f"-march={level}" in plan
    assert "core/operators_linked.cpp" in plan
    assert "loader.cpp" not in plan


def test_every_style_and_every_header_of_ours_is_in_the_patched_tree(tree):
    patch(tree)
    here = files("kan_md_pair_styles") / "lammps"
    styles = {path.name for path in here.iterdir() if path.name != "plugin.cpp"}
    patched = list((tree / "src").iterdir()) + list((tree / "lib" / "kan-md").iterdir())
    assert styles <= {path.name for path in patched}
    for path in (tree / "src").glob("*.cpp"):
        for name in re.findall(r'#include "(core/[^"]+|guard.h)"', path.read_text()):
            assert (tree / "lib" / "kan-md" / name).is_file(), name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "got 0 folders; usage"),
        (["one", "two"], "got 2 folders; usage"),
        (["--revert"], "got 0 folders; usage"),
        (["/nowhere"], "name the root of a LAMMPS source tree"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, said):
    result = patch(*arguments)
    assert result.returncode == 1
    assert said in result.stderr and result.stderr.count("\n") == 1


def test_a_lammps_that_is_too_old_is_refused_unchanged(tree):
    (tree / "src" / "pair.h").write_text("class Pair {};\n")
    before = snapshot(tree)
    result = patch(tree)
    assert result.returncode != 0
    assert "too old; use 22 Jul 2025 or later" in result.stderr
    assert snapshot(tree) == before


def test_sources_come_up_to_date_and_removed_ones_go(tree):
    patch(tree)
    (tree / "src" / "pair_kan.cpp").write_text("// kan-md of long ago\n")
    (tree / "lib" / "kan-md" / "core" / "gone.cpp").write_text("// kan-md\n")
    patch(tree)
    assert "of long ago" not in (tree / "src" / "pair_kan.cpp").read_text()
    assert not (tree / "lib" / "kan-md" / "core" / "gone.cpp").exists()


def test_revert_leaves_the_tree_as_it_was(tree):
    before = snapshot(tree)
    patch(tree)
    assert patch("--revert", tree).returncode == 0
    assert snapshot(tree) == before


def test_foreign_files_are_not_overwritten(tree):
    (tree / "src" / "pair_mace.h").write_text("// somebody else's\n")
    before = snapshot(tree)
    result = patch(tree)
    assert result.returncode != 0
    assert "is not ours" in result.stderr
    assert snapshot(tree) == before


def test_another_folder_is_refused(tmp_path):
    result = patch(tmp_path)
    assert result.returncode != 0
    assert "name the root of a LAMMPS source tree" in result.stderr
