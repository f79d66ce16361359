"""The page on embedding functions: what it holds the learned ones against."""

import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.eam import EAM

from kan_md.config import parse_config
from kan_md.data.ag_vacancy import silver_potential
from kan_md.errors import KanMdError
from results.experiments.embedding import (
    FIRST_PRINCIPLES,
    _check_same,
    _curvature,
    _short,
    configuration,
    eam_function,
)


@pytest.fixture(scope="module")
def published():
    """Of crystals of several lattice constants: one atom each."""
    return eam_function([bulk("Ag", "fcc", a=a) for a in (3.9, 4.0, 4.1, 4.2, 4.3)])


def test_densities_of_the_published_potential_are_sums_over_shells(published):
    """12, 6, 24, 12, 24 neighbours at a √(k/2) of an fcc crystal."""
    eam = EAM(potential=str(silver_potential()))
    energies = []
    for a in (3.9, 4.0, 4.1, 4.2, 4.3):
        shells = zip((12, 6, 24, 12, 24), a * np.sqrt(np.arange(1, 6) / 2), strict=True)
        rho = sum(n * eam.electron_density[0](r) for n, r in shells if r < eam.cutoff)
        energies.append(float(eam.embedded_energy[0](rho)))
    assert published.spread == pytest.approx(np.std(energies), rel=1e-9)
    assert published.counts.sum() == 5
    assert 0 < published.contribution < published.spread


def test_embedding_function_of_silver_is_convex(published):
    assert _curvature(published.as_json()) == "convex"
    mirrored = published.as_json() | {"curves": [[-y for y in published.curves[0]]]}
    assert _curvature(mirrored) == "concave"


def test_a_run_of_another_configuration_is_not_taken(tmp_path):
    wanted = configuration(tmp_path / FIRST_PRINCIPLES)
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(wanted))
    _check_same(path, wanted)
    other = wanted | {"training": wanted["training"] | {"seed": 2}}
    with pytest.raises(KanMdError, match="run of another configuration"):
        _check_same(path, other)


def test_numbers_are_kept_as_plain_json(published):
    text = json.dumps(_short(published.as_json()), allow_nan=False)
    assert json.loads(text)["grid"] == [None, None]


def test_the_case_is_a_valid_configuration_without_a_limit_of_time(tmp_path):
    config = parse_config(configuration(tmp_path / FIRST_PRINCIPLES))
    assert (config.training.seed, config.training.max_time) == (1, None)
    assert config.model.hyperparameters["num_layers"] == 1
    assert config.readout.kind == "kan"
