"""The page on weights in the loss: its cases are allowed, its crystals are those of theory."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import GPa

from kan_md.benchmark.machine import describe_machine
from kan_md.config import parse_config
from results.experiments import loss
from results.experiments.crystals import cubic_constants, monoclinic_hafnia, relaxed_volume


@pytest.mark.parametrize("case", loss.CASES)
def test_every_case_is_a_valid_configuration(case, tmp_path):
    config = parse_config(loss.configuration(*loss.CASES[case], tmp_path))
    assert config.training.loss.is_balanced == case.endswith("balanced")
    assert config.readout.kind == "kan"


def test_cubic_constants_are_curvatures_of_the_energy():
    found = cubic_constants("fcc", "Ag", 4.1, EMT())

    def energy(strain: np.ndarray) -> float:  # eV/Å³
        atoms = bulk("Ag", "fcc", a=found.a, cubic=True)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        atoms.calc = EMT()
        return atoms.get_potential_energy() / found.a**3

    def curvature(direction: np.ndarray, step: float = 2e-3) -> float:
        values = [energy(sign * step * direction) for sign in (-1, 0, 1)]
        return (values[0] - 2 * values[1] + values[2]) / step**2 / GPa

    bulk_strain, shear = np.eye(3), np.zeros((3, 3))
    shear[1, 2] = shear[2, 1] = 0.5
    tension = np.diag([1.0, 0.0, 0.0])
    assert curvature(tension) == pytest.approx(found.c11, rel=0.02)
    assert curvature(bulk_strain) == pytest.approx(3 * (found.c11 + 2 * found.c12), rel=0.02)
    assert curvature(shear) == pytest.approx(found.c44, rel=0.02)
    volume = relaxed_volume(lambda: bulk("Ag", "fcc", a=4.2), EMT())
    assert volume == pytest.approx(found.a**3 / 4, rel=1e-3)


def test_hafnia_has_the_bonds_of_hafnia():
    atoms = monoclinic_hafnia()
    assert sorted(atoms.get_chemical_symbols()) == ["Hf"] * 4 + ["O"] * 8
    distances = atoms.get_all_distances(mic=True)[:4, 4:]
    assert 1.9 < distances.min() < 2.2
    assert ((distances < 2.5).sum(axis=1) == 7).all()  # seven oxygens around every hafnium


def strained_silicon(strain: float) -> Atoms:
    atoms = bulk("Si", "diamond", a=5.4, cubic=True).repeat(2)
    atoms.set_cell(atoms.cell.array @ np.diag([1 + strain, 1.0, 1.0]), scale_atoms=True)
    stress = np.array([150 * strain - 300 * strain**2, 60 * strain, 60 * strain, 0, 0, 0]) * GPa
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=0 * atoms.positions, stress=stress)
    return atoms


def test_reference_of_silicon_is_read_from_strained_crystals():
    found = loss.silicon_reference([strained_silicon(x) for x in (-0.04, -0.02, 0.0, 0.02, 0.2)])
    assert found["a"] == pytest.approx(5.4)
    assert found["c11"] == pytest.approx(150.0)
    assert found["c12"] == pytest.approx(60.0)


def test_reference_of_hafnia_is_where_the_stress_vanishes():
    frames = []
    for size in (0.98, 1.0, 1.01):
        atoms = monoclinic_hafnia()
        atoms.set_cell(atoms.cell.array * size, scale_atoms=True)
        stress = 3.0 * np.log(size / 1.005) * np.array([1, 1, 1, 0, 0, 0])
        atoms.calc = SinglePointCalculator(
            atoms, energy=0.0, forces=0 * atoms.positions, stress=stress
        )
        frames.append(atoms)
    expected = monoclinic_hafnia().get_volume() / 4 * 1.005**3
    assert loss.hafnia_reference(frames)["volume"] == pytest.approx(expected)


def test_page_gives_weights_errors_and_crystals(tmp_path):
    errors = {"energy_rmse": 0.012, "forces_rmse": 0.1, "stress_rmse": 0.003}
    crystals = {"Si": {"a": 5.5, "c11": 140.0, "c12": 60.0, "c44": 70.0}, "HfO2": {"volume": 36.0}}
    stored = {
        "references": {"Si": {"a": 5.0}, "Ag": {"a": 4.147}, "HfO2": {"volume": 34.0}},
        "cases": {
            f"{name}, Allegro, balanced": {
                "errors": {"test": errors},
                "weights": {"energy": 2.5, "forces": 1.0, "stress": 270.0},
                "crystal": crystal,
            }
            for name, crystal in crystals.items()
        },
        "machine": describe_machine(),
        "command": "x",
    }
    stored["cases"]["Ag, Allegro, balanced"] = {"error": "out of memory"}
    text = loss.page(stored)
    assert "| Si | Allegro | balanced | 2.5 : 1 : 270 | 12.0 | 100.0 | 3.0 | 5.500 |" in text
    assert "+10.00 %" in text and "+1.96 %" in text  # a third of 5.9 % of volume
    assert "Not there: Ag, Allegro, balanced: out of memory" in text
    loss.save_figure(stored, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 1000
