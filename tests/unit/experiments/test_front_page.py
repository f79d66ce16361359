"""Potentials that LAMMPS brings, fitted and judged on the frames of others."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from kan_md.benchmark.models import baseline_entry
from results.experiments.front import fit_peer, timed_structure
from results.experiments.peers import pod
from results.experiments.peers.errors import errors, predictions
from results.experiments.peers.fit import Peer, PeerRecord, entry_of


@pytest.fixture(scope="module")
def frames():
    """Shaken, sheared silver in a cell that LAMMPS has to turn, labelled by LAMMPS' EAM."""
    found = []
    for seed in range(12):
        atoms = bulk("Ag", "fcc", a=4.09, cubic=True) * (2, 2, 2)
        random = np.random.default_rng(seed)
        strain = np.eye(3) + random.uniform(-0.05, 0.05, (3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.rattle(0.1, rng=random)
        found.append(atoms)
    labels = predictions(baseline_entry("eam"), found)
    for atoms, (energy, forces) in zip(found, labels, strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return found


def test_forces_are_minus_the_gradient_in_the_axes_of_the_frame(frames):
    atoms, step = frames[0], 1e-4
    moved = []
    for axis in range(3):
        for sign in (1, -1):
            copy = atoms.copy()
            copy.positions[5, axis] += sign * step
            moved.append(copy)
    energies = [energy for energy, _ in predictions(baseline_entry("eam"), moved)]
    gradient = -np.diff(np.reshape(energies, (3, 2)), axis=1).ravel() / (2 * step)
    assert atoms.get_forces()[5] == pytest.approx(-gradient, abs=1e-4)
    assert np.abs(gradient).max() > 0.1


def test_a_fit_learns_what_labelled_the_frames_and_its_record_runs_again(frames, tmp_path):
    basis = {"two": (6, 0), "three": (4, 3)}
    peer = Peer(
        method="ML-POD",
        size="3 bodies",
        weights=(1.0, 100.0),
        fit=lambda *arguments: pod.fit(*arguments, basis=basis),
    )
    parts = {"train": frames[:6], "val": frames[6:9], "test": frames[9:]}
    record = fit_peer(peer, "silver", ["Ag"], parts, tmp_path / "work")
    size = np.mean([np.abs(atoms.get_forces()).mean() for atoms in parts["test"]])
    assert record.test["forces_mae"] < 0.2 * size
    scores = {key: np.prod(list(found.values())) for key, found in record.tried.items()}
    assert f"{record.weight:g}" == min(scores, key=scores.get)
    record.write(tmp_path / "record.json")
    again = PeerRecord.read(tmp_path / "record.json")
    assert again == record
    entry = entry_of(again.label, again.elements, again.fitted, tmp_path / "elsewhere")
    assert errors(entry, parts["test"]) == pytest.approx(record.test, rel=1e-9)


def test_what_is_timed_keeps_the_density_and_is_large_enough(frames):
    large = timed_structure(frames[0], least=500)
    assert 500 <= len(large) <= 1000
    assert large.get_volume() / len(large) == pytest.approx(frames[0].get_volume() / 32)
