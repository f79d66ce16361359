"""The example program that uses the core without LAMMPS: built as its comment says, and run."""

import re
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from kan_md.builds.toolchain import find_compiler
from kan_md.lammps.build import build_plugin
from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.reference import evaluate

TYPES = ("Cu", "Au")
CUTOFFS = {"Cu": {"Cu": 3.2, "Au": 3.6}, "Au": 4.0}
MODELS = {
    "allegro": ("allegro", {"per_edge_type_cutoff": CUTOFFS}, {"operators": "portable"}),
    "mace": ("mace", {}, {"operators": "fused", "bound": 1e-9}),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program, compiled by the command in its comment."""
    sources, library = Path(str(files("kan_md_pair_styles"))), build_plugin()
    text = (sources / "examples" / "energy_and_forces.cpp").read_text()
    (command,) = re.findall(r"   (c\+\+ .*?-o energy_and_forces)\n", text, re.DOTALL)
    command = command.replace("SOURCES", str(sources))
    folder = tmp_path_factory.mktemp("example")
    words = [find_compiler(), *command.replace("LIB", str(library)).split()[1:]]
    subprocess.run([*words, "-Wall", "-Wextra", "-Werror"], cwd=folder, check=True)
    return folder / "energy_and_forces"


def run(program, *arguments):
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", MODELS)
def test_program_says_what_the_eager_model_says(
    program, deployed, tiny_checkpoint, alloy_frames, tmp_path, name
):
    backbone, keywords, options = MODELS[name]
    keywords = {"type_names": TYPES, **keywords}
    file = deployed(backbone, deploy=options, **keywords)
    model = load_checkpoint(tiny_checkpoint(backbone, **keywords)).build()
    strained = alloy_frames[0].copy()  # smaller than the cutoff, and atoms outside of the cell
    strained.positions[0] += 2 * strained.cell[0] - strained.cell[2]
    cluster = Atoms("CuAuCu", [[0, 0, 0], [2.4, 0.3, 0], [0.2, 2.2, 1.0]])
    for atoms in (strained, cluster):
        path = tmp_path / "structure.xyz"
        bare = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        bare.write(path, format="extxyz")
        result = run(program, file, path)
        assert result.returncode == 0, result.stderr
        energy, *forces = result.stdout.splitlines()
        expected = evaluate(model, bare)
        assert float(energy.split()[1]) == pytest.approx(float(expected["energy"]), abs=1e-6)
        found = np.array([[float(number) for number in row.split()[1:4]] for row in forces])
        # positions in the file have eight digits
        np.testing.assert_allclose(found, expected["forces"].numpy(), atol=1e-6)


def test_mistakes_are_one_line(program, deployed, tmp_path):
    file = deployed("allegro", type_names=TYPES)
    Atoms("Ni2", [[0, 0, 0], [0, 0, 2]]).write(tmp_path / "nickel.xyz", format="extxyz")
    (tmp_path / "text.xyz").write_text("no structure\n")
    for arguments, message in (
        ((file, tmp_path / "nickel.xyz"), "got Ni; allowed: Cu"),
        ((file, tmp_path / "text.xyz"), "allowed: extended XYZ"),
        ((tmp_path / "none.pth", tmp_path / "nickel.xyz"), "none.pth"),
        ((file,), "usage: "),
    ):
        result = run(program, *arguments)
        assert result.returncode == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
