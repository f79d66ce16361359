"""Perturbed structures with a teacher's labels."""

import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT

from kan_md.calculator import KANCalculator
from kan_md.cli.main import main
from kan_md.data import read_frames
from kan_md.data.augment import CLOSER, augment, shortest_distances
from kan_md.errors import KanMdError


@pytest.fixture
def crystal():
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True).repeat((2, 1, 1))
    atoms.symbols[:3] = "Pd"
    atoms.info["source"] = "a file"
    return atoms


def test_labels_are_the_teachers_of_the_perturbed_structure(crystal):
    made = list(augment([crystal], EMT(), copies=3, weight=0.5))
    assert len(made) == 3
    for atoms in made:
        again = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        again.calc = EMT()
        assert atoms.get_potential_energy() == pytest.approx(again.get_potential_energy())
        assert np.allclose(atoms.get_forces(), again.get_forces())
        assert np.allclose(atoms.get_stress(), again.get_stress())
        assert atoms.info == {"config_type": "augmented", "config_weight": 0.5}


def test_sizes_of_the_perturbations_are_those_asked_for():
    large = bulk("Cu", "fcc", a=3.6, cubic=True).repeat((4, 4, 4))
    (moved,) = augment([large], EMT(), copies=1, displacement=0.05, strain=0.0)
    assert np.array_equal(moved.cell, large.cell)
    assert (moved.positions - large.positions).std() == pytest.approx(0.05, rel=0.05)
    strained = list(augment([large], EMT(), copies=20, displacement=0.0, strain=0.02))
    deformations = [np.linalg.solve(large.cell.array, atoms.cell.array) for atoms in strained]
    changes = np.array(deformations) - np.eye(3)
    assert np.allclose(changes, changes.transpose(0, 2, 1))
    assert 0.01 < abs(changes).max() <= 0.02
    for atoms in strained:  # atoms go with the cell
        assert np.allclose(atoms.get_scaled_positions(), large.get_scaled_positions())


def test_a_structures_perturbations_depend_on_the_seed_and_not_on_other_structures(crystal):
    other = bulk("Ag", "fcc", a=4.1, cubic=True)
    alone = list(augment([crystal], EMT(), copies=2))
    beside = list(augment([crystal, other], EMT(), copies=2))
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(alone, beside))  # noqa: B905
    assert not np.array_equal(alone[0].positions, alone[1].positions)
    (first,) = augment([crystal], EMT(), copies=1, seed=1)
    assert not np.array_equal(alone[0].positions, first.positions)


@pytest.mark.parametrize(
    "atoms", [fcc111("Cu", (2, 2, 3), vacuum=6.0), molecule("H2O", vacuum=4.0)], ids=str
)
def test_cells_that_are_not_periodic_in_all_directions_stay(atoms):
    (made,) = augment([atoms], EMT(), copies=1, displacement=0.02)
    assert np.array_equal(made.cell, atoms.cell)
    assert np.array_equal(made.pbc, atoms.pbc)
    assert "stress" not in made.calc.results
    assert not np.array_equal(made.positions, atoms.positions)


def test_atoms_do_not_come_much_closer_than_in_any_given_structure(crystal):
    shortest = shortest_distances([crystal], 5.0)
    assert shortest[29, 46] == pytest.approx(3.6 / np.sqrt(2))
    for atoms in augment([crystal], EMT(), copies=20, displacement=0.3):
        for pair, length in shortest_distances([atoms], 5.0).items():
            assert length >= CLOSER * shortest[pair]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"displacement": 2.0}, "atoms of Cu5Pd3 are closer than 0.75 of the shortest distance"),
        ({"copies": 0}, "copies of perturbed structures, got 0; allowed: integers from 1"),
        ({"displacement": 0.0, "strain": 0.0}, "displacement and strain of perturbed structures"),
        ({"strain": -0.1}, "strain of perturbed structures, got -0.1; allowed: 0 to 0.3"),
        ({"weight": 0.0}, "weight of perturbed structures, got 0.0; allowed: above 0"),
        ({"displacement": float("nan")}, "displacement of perturbed structures, got nan"),
        ({"seed": -1}, "seed of perturbed structures, got -1; allowed: integers from 0"),
    ],
)
def test_bad_arguments_are_told(crystal, arguments, text):
    with pytest.raises(KanMdError, match=text):
        list(augment([crystal], EMT(), **arguments))


def test_a_potential_labels_structures_from_the_command_line(
    tiny_checkpoint, crystal, tmp_path, capsys
):
    model = tiny_checkpoint("mace", type_names=("Cu", "Au"))
    crystal.symbols[crystal.symbols == "Pd"] = "Au"
    lone = Atoms("Cu", cell=np.eye(3) * 30.0, pbc=True)
    ase.io.write(tmp_path / "frames.xyz", [crystal, lone])
    arguments = ["data", "augment", tmp_path / "frames.xyz", "--teacher", model, "--copies", "2"]
    arguments += ["-o", tmp_path / "out.xyz", "--weight", "0.25", "--json"]
    with pytest.raises(SystemExit, match="0"):
        main([str(argument) for argument in arguments])
    assert json.loads(capsys.readouterr().out)["isolated_left_out"] == 1
    frames = read_frames([tmp_path / "out.xyz"])
    assert len(frames) == 2
    for atoms in frames:
        assert atoms.info["config_weight"] == 0.25
        energy = KANCalculator(model, form="exact").get_potential_energy(atoms)
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-6)
    with pytest.raises(SystemExit, match="2"):
        main([str(argument) for argument in arguments])
    assert "an existing file" in capsys.readouterr().err
