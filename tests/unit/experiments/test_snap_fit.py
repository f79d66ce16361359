"""SNAP by least squares: rows are LAMMPS' own pair style, and what made the labels comes back."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from results.experiments.peers import snap
from results.experiments.peers.errors import errors, predictions
from results.experiments.peers.fit import entry_of

ELEMENTS = ["Ag", "Au"]


@pytest.fixture(scope="module")
def frames():
    """Shaken, sheared alloys in cells that LAMMPS has to turn, with labels that mean nothing."""
    found = []
    for seed in range(6):
        atoms = bulk("Ag", "fcc", a=4.1, cubic=True) * (2, 1, 1)
        random = np.random.default_rng(seed)
        atoms.symbols[random.permutation(8)[: 2 + seed % 3]] = "Au"
        strain = np.eye(3) + random.uniform(-0.05, 0.05, (3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.rattle(0.1, rng=random)
        forces = random.normal(0, 1.0, (8, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=random.normal(), forces=forces)
        found.append(atoms)
    return found


@pytest.mark.parametrize("settings", [(4, False), (2, True)], ids=["linear", "quadratic"])
def test_rows_are_energies_and_forces_of_the_pair_style(frames, tmp_path, settings):
    fit = snap._Fit(*settings)
    fitted = fit(ELEMENTS, frames, 10.0, tmp_path)
    entry = entry_of("SNAP", ELEMENTS, fitted, tmp_path)
    coefficients = snap.solve(fit._rows, 10.0)
    assert fitted.parameters == coefficients.size
    said = predictions(entry, frames)
    for rows, atoms, (energy, forces) in zip(fit._rows, frames, said, strict=True):
        found = rows[:, :-1] @ coefficients
        assert len(atoms) * found[0] == pytest.approx(energy, abs=1e-8)
        # LAMMPS turns the cell, which leaves lengths.
        lengths = np.linalg.norm(found[1:].reshape(-1, 3), axis=1)
        np.testing.assert_allclose(lengths, np.linalg.norm(forces, axis=1), atol=1e-8)


def test_a_potential_of_the_same_kind_is_found_from_its_labels(frames, tmp_path):
    fit = snap._Fit(2, False)
    teacher = entry_of("teacher", ELEMENTS, fit(ELEMENTS, frames, 1.0, tmp_path), tmp_path / "one")
    labelled = []
    for atoms, (energy, forces) in zip(frames, predictions(teacher, frames), strict=True):
        copy = atoms.copy()
        copy.calc = SinglePointCalculator(copy, energy=energy, forces=forces)
        labelled.append(copy)
    student = entry_of(
        "student", ELEMENTS, fit(ELEMENTS, labelled[:4], 10.0, tmp_path), tmp_path / "two"
    )
    found = errors(student, labelled[4:])
    assert found["energy_mae"] < 1e-7
    assert found["forces_mae"] < 1e-7
    assert np.mean([np.abs(atoms.get_forces()).mean() for atoms in labelled]) > 1e-2


def test_weight_of_energies_is_that_of_weighted_least_squares():
    """Against numpy's solution of the same problem written out whole."""
    random = np.random.default_rng(1)
    rows = [random.normal(size=(13, 5)) for _ in range(20)]
    weights = np.array([7.0, *[1.0] * 12])[:, None]
    whole = np.vstack([weights * frame for frame in rows])
    expected, *_ = np.linalg.lstsq(whole[:, :-1], whole[:, -1], rcond=None)
    np.testing.assert_allclose(snap.solve(rows, 7.0), expected, rtol=1e-10)
