"""Every step is checked: atoms that sit on one another, and results that are no numbers.

The messages name the step, the atoms and their distance, whatever the style, the layout, the number
of ranks and the way that positions take to the model.
"""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from engine import ZERO_STEPS, system
from structures import ELEMENTS, rattled

from kan_md_deploy.archive import read_manifest, seal
from kan_md_deploy.torchscript import save_torchscript

pytestmark = pytest.mark.lammps

STYLES = ("allegro", "nequip", "mace")
LENGTH = 2 * 3.85  # of the box
NO_LISTS = "neigh_modify every 1000 delay 1000 check no"


def with_duplicates(*positions):
    """The orthogonal box with atom 1 at the first of these positions (Å) and the last atoms at the
    others; only these are near each other."""
    atoms = rattled((2, 2, 2))
    atoms.positions[0] = positions[0]
    far = [k for k in range(1, len(atoms)) if atoms.get_distance(k, 0, mic=True) > 1.0]
    more = Atoms("Cu" * (len(positions) - 1), positions=positions[1:])
    return atoms[[0, *far]] + more


PLACE = np.array([0.0, 3.0, 2.0])


def shifted(*by):
    return PLACE + np.array(by)


# name -> positions of the atoms that sit on one another, the distance that is named
COINCIDENT = {
    "same place": ([PLACE, PLACE], 0.0),
    "nearly the same": ([shifted(1, 1, 1), shifted(1, 1, 1.001)], 1e-3),
    "a hair apart": ([PLACE, shifted(0, 0, 1e-12)], 1e-12),
    "on both sides of the box": ([PLACE, shifted(LENGTH - 1e-6, 0, 0)], 1e-6),
    "corner": ([[1e-4, 1e-4, 1e-4], np.full(3, LENGTH - 1e-4)], 2e-4 * 3**0.5),
    "on both sides of the middle": ([[LENGTH / 2 - 1e-5, 1, 1], [LENGTH / 2 + 1e-5, 1, 1]], 2e-5),
}


def job(atoms, style, file, folder, *lines, place="", before=()):
    pair = [f"pair_style {style} {place}", f"pair_coeff * * {file} {' '.join(ELEMENTS)}"]
    commands = system(atoms, ELEMENTS, style, file, folder=folder, before=before, pair=pair)
    return {"commands": [*commands, *lines], "gather": False}


def assert_names_pair(result, a, b, distance, step, *, more=""):
    found = re.search(
        r"atoms must not sit on one another, got atom IDs (\d+) and (\d+) at a distance of (\S+) Å "
        r"at step (\d+)(, and \d+ more pair\(s\))?; allowed: 0.01 Å and more; ",
        result.error,
    )
    assert found, result.error
    assert (int(found[1]), int(found[2]), int(found[4])) == (a, b, step)
    assert float(found[3]) == pytest.approx(distance, rel=0.01, abs=1e-15)
    assert (found[5] or "") == more
    assert "pair_styles/lammps/kanmd_checks.cpp:" in result.error


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi)])
def test_atoms_that_sit_on_one_another_are_named(ranks, engine, alloy_model, tmp_path):
    jobs, expected = [], []
    for before in ["processors * 1 1"], ["newton off"]:
        for style in STYLES:
            for positions, distance in COINCIDENT.values():
                atoms = with_duplicates(*positions)
                jobs.append(job(atoms, style, alloy_model(style), tmp_path, "run 0", before=before))
                expected.append((1, len(atoms), distance, 0))
    for result, wanted in zip(engine.run(jobs, ranks=ranks), expected, strict=True):
        assert_names_pair(result, *wanted)


def test_more_than_two_atoms_are_counted_and_minimize_is_checked(engine, alloy_model, tmp_path):
    atoms = with_duplicates(PLACE, PLACE, shifted(0, 0, 1e-3))
    jobs = [
        job(atoms, style, alloy_model(style), tmp_path, "minimize 0 0.1 5 5") for style in STYLES
    ]
    for result in engine.run(jobs):
        assert_names_pair(result, 1, len(atoms) - 1, 0.0, 0, more=", and 2 more pair(s)")


APPROACH = [
    NO_LISTS,
    "group one id 1",
    "fix 1 one move linear 0 0 10.0",  # Å/ps
    "timestep 0.001",
]


def approaching():
    """Atom 1 comes along z upon the last one, and is 0.005 Å from it at step 30."""
    return with_duplicates(PLACE, shifted(0, 0, 0.305))


def test_the_step_is_named_between_two_neighbour_lists(engine, alloy_model, tmp_path):
    atoms = approaching()
    lines = [*APPROACH, "run 50"]
    jobs = [job(atoms, style, alloy_model(style), tmp_path, *lines) for style in STYLES]
    for result in engine.run(jobs):
        assert_names_pair(result, 1, len(atoms), 0.005, 30)


def test_steps_on_a_device_are_checked(
    emulated_device, engine, alloy_model, bad_model_of, tmp_path
):
    atoms, jobs, bad = approaching(), [], []
    for keep in ("step", "list", "nothing"):
        place = f"device privateuseone keep {keep}"
        for style in STYLES:
            file = alloy_model(style, deploy={"static_shapes": True})
            jobs.append(job(atoms, style, file, tmp_path, *APPROACH, "run 50", place=place))
        file = bad_model_of("allegro")
        bad.append(job(diverging(), "allegro", file, tmp_path, "run 3", place=place))
    results = engine.run(jobs + bad, environment={"LD_PRELOAD": str(emulated_device)})
    for result in results[: len(jobs)]:
        assert_names_pair(result, 1, len(atoms), 0.005, 30)
    for result in results[len(jobs) :]:
        assert "forces must be finite numbers, got " in result.error
        assert "of atom ID 1 at step 0, whose nearest neighbour is atom ID 2" in result.error


class Bad(torch.nn.Module):
    """Energies that are numbers; forces that are none for edges shorter than 1.5 Å."""

    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def forward(
        self,
        edge_vectors: torch.Tensor,
        edge_index: torch.Tensor,
        atom_types: torch.Tensor,
        num_local: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        short = edge_vectors.square().sum(1).unsqueeze(1) < 1.5**2
        forces = torch.where(short, edge_vectors * self.value, edge_vectors * 0.1)
        return 0.0 * atom_types.to(edge_vectors.dtype).unsqueeze(1), forces


def diverging():
    """Four atoms in a row; the first two are 1.4 Å apart."""
    x = [10.0, 11.4, 13.4, 15.4]
    return Atoms("CuAuCuAu", positions=[[a, 10, 10] for a in x], cell=[30.0, 20, 20], pbc=False)


@pytest.fixture
def bad_model_of(alloy_model, tmp_path):
    def make(style, value=float("inf")):
        manifest = replace(read_manifest(alloy_model(style)), passes={}, static_shapes=True)
        file = tmp_path / f"{style}-{value}.deployed.pth"
        save_torchscript(torch.jit.script(Bad(value)), file, manifest=manifest.to_text())
        seal(file)
        return file

    return make


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi)])
def test_forces_that_are_no_numbers_stop_the_run(ranks, bad_model_of, engine, tmp_path):
    """Without thermo output that needs them, and with per-atom virials."""
    cases = [
        (style, value, lines)
        for style in STYLES
        for value in (float("inf"), float("nan"))
        for lines in (["thermo_style custom step pe", "run 3"], ZERO_STEPS)
    ]
    jobs = [
        job(diverging(), style, bad_model_of(style, value), tmp_path, *lines)
        for style, value, lines in cases
    ]
    for result in engine.run(jobs, ranks=ranks):
        assert re.search(
            r"forces must be finite numbers, got -?(inf|nan) of atom ID [12] at step 0, whose "
            r"nearest neighbour is atom ID [12] at a distance of 1.4 Å; atoms are likely far from "
            r"all training data: reduce the timestep",
            result.error,
        ), result.error


def test_a_force_that_overflows_between_two_lists_names_its_step(bad_model_of, engine, tmp_path):
    """Atom 2 leaves atom 3 and comes within 1.5 Å of atom 1 at step 21."""
    atoms = diverging()
    atoms.positions[1, 0] = 11.7051
    lines = [
        NO_LISTS,
        "group two id 2",
        "fix 1 two move linear -10 0 0",
        "timestep 0.001",
        "run 50",
    ]
    jobs = [job(atoms, style, bad_model_of(style), tmp_path, *lines) for style in STYLES]
    for result in engine.run(jobs):
        assert "of atom ID 1 at step 21, whose nearest neighbour is atom ID 2" in result.error
