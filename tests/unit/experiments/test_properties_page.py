"""The page on silver: what it is made of, and how a coexistence run is judged."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from kan_md.config import parse_config
from kan_md.errors import KanMdError
from results.experiments import properties, search
from results.experiments.crystals import cubic_constants
from results.experiments.data_sets import SETS
from results.experiments.mechanics import melting
from results.experiments.mechanics.phonons import phonon_bands
from results.experiments.mechanics.references import EXPERIMENT, PBE
from results.experiments.mechanics.solids import compression, surface_energy, vacancy_energy

ROOT = Path(__file__).parents[3]


def test_models_of_first_principles_silver_are_those_of_the_search(tmp_path):
    data = tmp_path / SETS["Ag"].train
    data.write_text("")
    (tmp_path / properties.EAM.train).write_text("")
    found = list(properties.potentials(tmp_path, tmp_path, (2,)))
    wanted = search.runs(tmp_path, (0,))
    for potential in found:
        if potential.labels == "Ag":
            run = wanted[potential.readout, "Ag", 2]
            assert (run.name, run.content) == (potential.run.name, potential.run.content)
    assert [p.labels for p in found].count("Ag") == 3
    assert found[0].run is None


def test_configurations_on_the_made_set_are_valid(tmp_path):
    (tmp_path / properties.EAM.train).write_text("")
    kinds = set()
    for potential in properties.potentials(None, tmp_path, (1,)):
        if potential.run is not None:
            config = parse_config(potential.run.content)
            kinds.add(config.readout.kind)
            assert config.training.loss.is_balanced
    assert kinds == {"kan", "linear", "mlp"}


def test_bulk_modulus_of_compression_is_that_of_the_elastic_constants():
    constants = cubic_constants("fcc", "Ag", 4.1, EMT())
    found = compression("Ag", constants.a, EMT())
    assert found.a == pytest.approx(constants.a, rel=1e-3)
    expected = (constants.c11 + 2 * constants.c12) / 3
    assert found.bulk_modulus == pytest.approx(expected, rel=0.02)


def test_pair_potential_without_relaxation_counts_bonds():
    """Nearest neighbours alone: a vacancy costs half of 12 bonds, a surface those that it cuts."""
    depth, length = 0.2, 2.9  # eV, Å
    a = np.sqrt(2) * length
    # At the minimum of its well a pair gives -depth and no force; the second shell is cut off.
    pairs = LennardJones(sigma=length / 2 ** (1 / 6), epsilon=depth, rc=1.2 * length)
    shift = 4 * depth * ((1 / (1.2 * 2 ** (1 / 6))) ** 12 - (1 / (1.2 * 2 ** (1 / 6))) ** 6)
    bond = depth + shift
    assert vacancy_energy("Ag", a, pairs, repeat=3) == pytest.approx(6 * bond, rel=1e-3)
    cut = {"111": 3, "100": 4, "110": 6}  # bonds per surface atom; 110: five of it, one below
    area = {"111": np.sqrt(3) / 2, "100": 1.0, "110": np.sqrt(2)}  # in squared bond lengths
    for face, number in cut.items():
        expected = number / 2 * bond / (area[face] * length**2) * 16.0218  # eV/Å² in J/m²
        assert surface_energy("Ag", a, face, pairs, layers=8) == pytest.approx(expected, rel=1e-3)


def test_phonons_of_nearest_neighbour_springs_are_those_of_the_textbook():
    """m ω² = 4k at X transverse, 8k longitudinal, for springs k between nearest neighbours."""
    pytest.importorskip("phonopy", reason="phonons need phonopy")
    depth, length = 0.2, 2.9
    pairs = LennardJones(sigma=length / 2 ** (1 / 6), epsilon=depth, rc=1.2 * length)
    spring = 72 * depth / length**2 * 16.0218  # eV/Å² in N/m
    mass = 107.8682 * 1.66054e-27
    found = phonon_bands("Ag", np.sqrt(2) * length, pairs, repeat=3).special["X"]
    expected = [np.sqrt(c * spring / mass) / (2e12 * np.pi) for c in (4, 4, 8)]
    assert found == pytest.approx(expected, rel=0.01)


def test_vacancy_that_does_not_come_to_rest_is_told(monkeypatch):
    monkeypatch.setattr("results.experiments.mechanics.solids._STEPS", 1)
    with pytest.raises(KanMdError, match="must come to rest within 1 steps"):
        vacancy_energy("Ag", 3.9, EMT(), repeat=2)


@pytest.mark.parametrize(
    ("slabs", "share"),
    [([0.5] * 10 + [0.02] * 10, 0.5), ([0.02] * 20, 0.0), ([0.5] * 18 + [0.4] * 2, 1.0)],
)
def test_crystal_is_told_from_melt(slabs, share):
    rng = np.random.default_rng(1)
    profiles = np.array([slabs] * 8) + rng.normal(0, 0.01, (8, len(slabs)))
    assert melting.crystal_share(profiles) == share


def test_trace_of_a_run_that_went_on_has_each_step_once(tmp_path):
    rows = [(500, 1100.0), (1000, 1110.0), (1000, 1111.0), (1500, 1120.0)]
    lines = ["# a", *(f"{step} {t} 0.0 -2.5 -2.4" for step, t in rows[:2]), "# b"]
    lines += [f"{step} {t} 0.0 -2.5 -2.4" for step, t in rows[2:]]
    (tmp_path / melting.TRACE).write_text("\n".join(lines) + "\n")
    trace = melting.read_trace(tmp_path)
    assert trace[:, :2].tolist() == [[500, 1100.0], [1000, 1111.0], [1500, 1120.0]]


def test_guesses_move_to_where_both_phases_stay(tmp_path, monkeypatch):
    true = 950.0
    guesses = []

    def run(metal, folder, *, guess, setting):
        guesses.append(guess)

    def read(folder, *, guess, setting):
        off = guess - true
        crystal = 0.5 if abs(off) < 100 else float(off < 0)
        found = true if crystal == 0.5 else guess - np.sign(off) * 80
        values = dict.fromkeys(("error", "pressure", "drift", "time"), 0.0)
        return melting.Melting(
            guess=guess, temperature=found, crystal=crystal, atoms=1, trace=[], **values
        )

    monkeypatch.setattr(melting, "run_coexistence", run)
    monkeypatch.setattr(melting, "read_run", read)
    silver = melting.Metal(entry=None, symbol="Ag", a=4.1, mass=1.0)
    for start in (1200.0, 700.0):
        found = melting.coexistence(silver, tmp_path, guess=start, setting=melting.Setting())
        assert found[-1].has_both
        assert found[-1].temperature == true
        assert len(found) > 1
    both = melting.melting_temperature(silver, tmp_path, guess=950.0, setting=melting.Setting())
    assert len(both) == 2  # the small box, and the large one from what it says
    assert guesses[-1] == true


def test_references_agree_with_each_other():
    assert PBE.values["a"] > EXPERIMENT.values["a"]
    bulk = (EXPERIMENT.values["c11"] + 2 * EXPERIMENT.values["c12"]) / 3
    assert bulk == pytest.approx(EXPERIMENT.values["bulk_modulus"], rel=0.05)


def test_page_is_made_of_the_stored_results(tmp_path):
    stored = json.loads((ROOT / "results" / "properties.json").read_text())
    text = properties.page(stored, command="c")
    check = stored["potentials"]["Ag_u3"]
    assert f"| Ag_u3, by this script | {check['properties']['a']:.3f} |" in text
    kinds = {entry["readout"] for entry in stored["potentials"].values()}
    assert all(f"| {kind} | " in text for kind in kinds if kind)
    properties.save_figures(stored, tmp_path)
    assert (tmp_path / "properties-phonons.png").stat().st_size > 10_000
