"""Extrapolation: structures that are what they are called, labels of one potential."""

import numpy as np
import pytest
from ase.calculators.eam import EAM

from kan_md.data.ag_vacancy import ag_vacancy_structure, silver_potential
from results.experiments import extrapolation
from results.experiments.extrapolation import ERRORS, KINDS, ROWS


@pytest.fixture
def crystal():
    atoms = ag_vacancy_structure()
    atoms.rattle(0.05, seed=1)
    return atoms


def test_labels_are_those_of_the_published_potential(crystal):
    (found,) = extrapolation.labelled([crystal])
    crystal.calc = EAM(potential=str(silver_potential()))
    difference = found.get_potential_energy() - crystal.get_potential_energy()
    assert abs(difference) < 5e-3 * len(crystal)  # two interpolations of one table
    assert np.allclose(found.get_forces(), crystal.get_forces(), atol=0.02)
    assert np.allclose(found.positions, crystal.positions)


def test_configurations_differ_in_nothing_but_readout_and_seed(tmp_path, crystal):
    paths = {name: tmp_path / f"{name}.xyz" for name in ("train", "val")}
    for path in paths.values():
        crystal.write(path, format="extxyz")
    runs = extrapolation.runs(paths)
    assert len({run.id for run in runs.values()}) == len(ROWS) * len(extrapolation.SEEDS)
    kept = {repr((run.config.model, run.config.data.train)) for run in runs.values()}
    assert len(kept) == 1


def test_page_has_every_kind_and_says_what_notices_it(tmp_path):
    def entry(scale, **more):
        errors = dict.fromkeys(ERRORS.values(), scale)
        return {kind: {**errors, **more} for kind in KINDS}

    found = {
        ("KAN", 1): entry(1e-3, outside=0.25, sigma=2e-3),
        ("KAN", 2): entry(3e-3, outside=0.75, sigma=4e-3),
        ("linear", 1): entry(4e-3),
    }
    text = extrapolation.page(found, [], command="x")
    for kind in KINDS:
        assert f"| {kind} | 2.00 ± 1.00 | 4.00 |" in text
        assert f"| {kind} | KAN | 50 % | 3 | 2 |" in text
    extrapolation.draw(found, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000
