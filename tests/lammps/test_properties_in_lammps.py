"""Silver in LAMMPS: a published potential gets its published properties, and melts as it should."""

from dataclasses import replace

import numpy as np
import pytest
from ase.units import _amu

from kan_md.benchmark.models import baseline_entry
from results.experiments.mechanics.melting import (
    PROFILE,
    RESTART,
    Metal,
    Setting,
    read_profiles,
    read_run,
    read_trace,
    run_coexistence,
)
from results.experiments.mechanics.references import EAM, ROUNDED
from results.experiments.mechanics.worker import properties_of
from results.experiments.properties_page import values_of

pytestmark = pytest.mark.lammps
MASS = 107.8682


@pytest.fixture(scope="module")
def found():
    pytest.importorskip("phonopy", reason="phonons need phonopy")
    return properties_of(baseline_entry("eam"), "Ag", 4.15, repeat=3)


@pytest.mark.parametrize("name", [name for name in EAM.values if name != "melting"])
def test_published_numbers_come_out(found, name):
    assert values_of({"properties": found})[name] == pytest.approx(EAM.values[name], rel=ROUNDED)


def test_sound_has_the_velocities_of_the_elastic_constants(found):
    bands = found["phonons"]
    wave, (slow, slower, fast) = bands["distance"][2], bands["frequencies"][2]
    assert slow == pytest.approx(slower, rel=1e-3)
    density = 4 * MASS * _amu / (found["a"] * 1e-10) ** 3  # kg/m³
    for frequency, constant in ((fast, found["c11"]), (slow, found["c44"])):
        velocity = 2 * np.pi * frequency * 1e12 / (wave * 1e10)  # along [100], m/s
        assert velocity == pytest.approx(np.sqrt(constant * 1e9 / density), rel=0.02)


SHORT = Setting(across=4, along=14, steps=1000, prepare=1500, timestep=0.003)


def test_melt_stands_beside_crystal_and_a_run_goes_on_where_it_was(tmp_path):
    silver = Metal(entry=baseline_entry("eam"), symbol="Ag", a=4.09, mass=MASS)
    run_coexistence(silver, tmp_path, guess=1050.0, setting=SHORT)
    assert (tmp_path / RESTART).exists()
    first = read_trace(tmp_path)
    longer = replace(SHORT, steps=2000)
    run_coexistence(silver, tmp_path, guess=1050.0, setting=longer)
    trace = read_trace(tmp_path)
    assert trace[:, 0].tolist() == [500.0, 1000.0, 1500.0, 2000.0]
    assert trace[: len(first)] == pytest.approx(first)  # nothing was run again
    crystal, melt = np.split(read_profiles(tmp_path)[0], 2)
    assert crystal[3:-3].mean() > 0.2
    assert melt[3:-3].mean() < 0.2 * crystal[3:-3].mean()
    result = read_run(tmp_path, guess=1050.0, setting=longer)
    assert result.temperature == pytest.approx(1050, abs=120)
    assert abs(result.drift) < 0.5  # meV/atom
    assert (tmp_path / PROFILE).exists()
