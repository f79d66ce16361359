"""Learning curves: fewer frames of the same set, as many steps, and points of the right runs."""

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from kan_md.runs.record import Record
from results.experiments import learning_curves, search
from results.experiments.data_sets import SETS
from results.experiments.learning_curves import KAN, ROWS, SIZES, Point


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of as many frames as the sets need, told apart by their energy."""
    path = tmp_path_factory.mktemp("data")
    for name in SIZES:
        frames = []
        for number in range(sum(SETS[name].frames.values())):
            atoms = bulk("Cu")
            atoms.calc = SinglePointCalculator(atoms, energy=float(number), forces=np.zeros((1, 3)))
            frames.append(atoms)
        ase.io.write(path / SETS[name].train, frames, format="extxyz")
    return path


def energies(path):
    return [atoms.get_potential_energy() for atoms in ase.io.read(path, ":")]


@pytest.mark.parametrize("name", SIZES)
def test_smaller_sets_are_parts_of_the_training_part_alone(folder, tmp_path, name):
    paths = learning_curves.write_parts(SETS[name], folder, tmp_path)
    whole, val, test = (energies(paths[part]) for part in ("train", "val", "test"))
    assert len(whole) == SETS[name].frames["train"]
    assert not set(whole) & set(val) and not set(test) & {*whole, *val}
    for size in SIZES[name]:
        chosen = energies(paths[str(size)])
        assert len(set(chosen)) == size and set(chosen) <= set(whole)
        assert (chosen[0], chosen[-1]) == (whole[0], whole[-1])


def test_every_point_takes_as_many_steps_and_differs_in_nothing_but_the_frames(folder, tmp_path):
    runs = learning_curves.runs(folder, tmp_path, ["Ag"])
    assert len({run.id for run in runs.values()}) == len(runs)
    whole = search.runs(folder)[KAN, "Ag", 2].config
    for size in SIZES["Ag"]:
        config = runs[Point(KAN, "Ag", size, 2)].config
        steps = config.training.epochs * size / config.training.batch_size
        assert steps == pytest.approx(whole.training.epochs * 300 / 2, rel=0.01)
        assert (config.model, config.readout) == (whole.model, whole.readout)
        assert config.training.optimizer == whole.training.optimizer


def test_page_and_figure_pair_seeds(tmp_path):
    def record(energy):
        errors = {"energy_mae": energy, "forces_mae": 10 * energy}
        return Record(
            name="x", id="x", configuration={}, data={}, results={"errors": {"test": errors}}
        )

    found = {}
    for seed, (ours, theirs) in {1: (1e-3, 2e-3), 2: (3e-3, 4e-3)}.items():
        found[Point(KAN, "Ag", 30, seed)] = record(ours)
        found[Point(ROWS[1].label, "Ag", 30, seed)] = record(theirs)
        found[Point(KAN, "Ag", 300, seed)] = record(ours / 2)
    text = learning_curves.page(found, command="x")
    assert "| 30 | KAN | 2 | 2.00 ± 1.00 | 20.0 ± 10.0 | – | – |" in text
    # -50 % and -25 %
    assert (
        "| 30 | MLP 16 | 2 | 3.00 ± 1.00 | 30.0 ± 10.0 | -37.5 ± 12.5 % | -37.5 ± 12.5 % |" in text
    )
    learning_curves.draw(found, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
