"""Reference energies are what the compositions determine, and say where they come from."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from kan_md.data.identity import repeated, shared, structure_key
from kan_md.data.isolated import is_isolated_atom, isolated_energies, separate_isolated
from kan_md.data.outliers import far_from_the_others, force_outliers
from kan_md.data.references import fit_references, reference_lines
from kan_md.data.statistics import energy_scale
from kan_md.errors import KanMdError

RNG = np.random.default_rng(5)


def fit(counts, energies, names=("Hf", "O"), **options):
    return fit_references(np.array(counts, float), np.array(energies, float), names, **options)


def test_references_are_the_least_squares_of_the_energies_per_atom():
    counts = RNG.integers(0, 9, (40, 3)) + 1
    energies = counts @ [-1.0, -5.0, 3.0] + RNG.normal(size=40)
    found = fit(counts, energies, ["A", "B", "C"])
    atoms = counts.sum(1)
    expected = np.linalg.lstsq(counts / atoms[:, None], energies / atoms, rcond=None)[0]
    np.testing.assert_allclose(list(found.energies.values()), expected, rtol=1e-9)
    assert set(found.sources.values()) == {"least squares"}
    assert found.outliers == []
    np.testing.assert_allclose(found.residuals, (energies - counts @ expected) / atoms, atol=1e-9)


def test_one_composition_gives_equal_shares_and_says_so():
    found = fit([[1, 2]] * 9, -2166.0 + RNG.normal(size=9), ["O", "H"])
    assert found.energies["H"] == pytest.approx(found.energies["O"])
    assert found.energies["O"] + 2 * found.energies["H"] == pytest.approx(-2166, abs=2)
    text = " ".join(reference_lines(found.energies, found.sources))
    assert "the compositions do not determine O, H" in text and "fix gcmc" in text


def test_what_is_left_open_stays_in_equal_shares():
    # A occurs on its own; B and C always as BC2.
    counts = [[n, m, 2 * m] for n in (1, 3, 6) for m in (1, 2, 4)]
    found = fit(counts, np.array(counts) @ [-3.0, -10.0, -4.0], ["A", "B", "C"])
    assert found.energies["A"] == pytest.approx(-3)
    assert found.energies["B"] == pytest.approx(found.energies["C"])
    assert found.energies["B"] == pytest.approx(-6)
    assert found.sources == {"A": "least squares", "B": "equal shares", "C": "equal shares"}


def test_a_vacancy_in_noise_determines_nothing():
    # By least squares alone the two come out several eV off, and the other way round.
    counts = [[32, 64]] * 50 + [[32, 63]] * 2
    noise = 10.0 * np.random.default_rng(3).normal(size=52)
    found = fit(counts, np.array(counts) @ [-3.0, -9.0] + noise)
    assert found.sources == {"Hf": "equal shares", "O": "equal shares"}
    assert found.energies["Hf"] == pytest.approx(-7, abs=0.1)
    exact = fit(counts, np.array(counts) @ [-3.0, -9.0])
    assert exact.energies == pytest.approx({"Hf": -3, "O": -9})
    assert set(exact.sources.values()) == {"least squares"}


def test_isolated_atoms_go_first_and_the_rest_is_fitted():
    counts = [[1, 2]] * 5
    found = fit(counts, [-20.0] * 5, isolated={"O": -2.0, "Xe": 7.0})
    assert found.energies == pytest.approx({"Hf": -16.0, "O": -2.0})
    assert found.sources == {"Hf": "least squares", "O": "isolated atom"}
    found = fit(counts, [-20.0] * 5, isolated={"O": -2.0, "Hf": -3.0})
    assert found.energies == {"Hf": -3.0, "O": -2.0}
    np.testing.assert_allclose(found.residuals, -13 / 3)


def test_outlying_energies_have_no_say_and_missing_ones_none():
    counts = RNG.integers(1, 5, (30, 2))
    energies = counts @ [-3.0, -9.0] + 0.2 * RNG.normal(size=30)
    energies[[4, 17]] = -999.0, np.nan
    found = fit(counts, energies)
    assert found.outliers == [4]
    assert np.isnan(found.residuals[17])
    assert found.energies == pytest.approx({"Hf": -3, "O": -9}, abs=0.3)


def test_types_and_sets_without_energies_have_no_reference():
    found = fit([[2, 0], [3, 0]], [-6.0, -9.0])
    assert found.energies == pytest.approx({"Hf": -3, "O": 0})
    assert found.sources["O"] == "no data"
    assert fit([[1, 2]] * 3, [np.nan] * 3).energies == {"Hf": 0, "O": 0}


def atom(symbol="Cu", energy=None, *, cell=None, **info):
    atoms = Atoms(symbol, cell=cell, pbc=cell is not None, info=info)
    if energy is not None:
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
    return atoms


@pytest.mark.parametrize(
    ("atoms", "isolated"),
    [
        (atom(config_type="IsolatedAtom"), True),
        (atom(config_type="isolated_atom", cell=[4, 4, 4]), True),  # called so: the user's word
        (atom(config_type="Isolated Atom"), True),
        (atom(), True),
        (atom(cell=[15, 15, 15]), True),  # in a box that is wide enough
        (atom(cell=[4, 15, 15]), False),
        (atom(config_type="bulk", cell=[4, 4, 4]), False),
        (atom("Cu2", config_type="IsolatedAtom"), False),
    ],
)
def test_isolated_atoms_are_recognised(atoms, isolated):
    assert is_isolated_atom(atoms, 5.0) == isolated
    assert [len(part) for part in separate_isolated([atoms], 5.0)] == [not isolated, isolated]


def test_isolated_atoms_that_contradict_each_other_are_refused():
    frames = [atom("Cu", 3.51), atom("Au", 3.8), atom("Cu", 3.5101), atom("Ag")]
    assert isolated_energies(frames) == {"Cu": 3.51, "Au": 3.8}
    frames.append(atom("Cu", 2.0, source="a.xyz, frame 7"))
    with pytest.raises(KanMdError, match=r"Cu contradict.*3\.51 eV \(Cu\) and 2 eV \(a\.xyz, fr"):
        isolated_energies(frames)


def with_forces(size, seed=0):
    atoms = Atoms("Cu4", positions=RNG.normal(size=(4, 3)))
    forces = size * np.random.default_rng(seed).normal(size=(4, 3))
    atoms.calc = SinglePointCalculator(atoms, forces=forces)
    return atoms


def test_the_energy_scale_leaves_single_outliers_out():
    frames = [with_forces(1.0, seed) for seed in range(30)]
    plain = energy_scale(frames, np.full(30, np.nan))
    assert plain.outliers == [] and plain.value == plain.plain
    spoilt = energy_scale([*frames, with_forces(1e4)], np.full(31, np.nan))
    assert spoilt.outliers == [30]
    assert spoilt.value == pytest.approx(plain.value)
    assert spoilt.plain > 1000


def test_a_part_of_the_set_is_no_outlier():
    relaxed = [with_forces(1e-3, seed) for seed in range(80)]
    hot = [with_forces(2.0, seed) for seed in range(20)]
    assert len(force_outliers(relaxed + hot)) == 0
    assert len(far_from_the_others(np.r_[np.zeros(80), np.full(20, 9.0)])) == 0
    assert far_from_the_others(np.r_[0.1 * RNG.normal(size=80), 9.0, np.nan]).tolist() == [80]


def test_without_forces_the_scale_is_that_of_the_energies():
    frames = [Atoms("Cu4"), Atoms("Cu9")]
    scale = energy_scale(frames, np.array([0.3, -0.2]))
    assert scale.of == "energies"
    assert scale.value == pytest.approx(0.6)


def test_structures_are_the_same_by_what_they_are():
    atoms = Atoms("CuAu", positions=[[0, 0, -1e-9], [1, 2, 3]], cell=[5, 5, 5], pbc=True)
    same = Atoms("CuAu", positions=[[0, 0, 0.0], [1, 2, 3.0000001]], cell=[5, 5, 5], pbc=True)
    others = [atoms.copy() for _ in range(4)]
    others[0].positions[0, 0] = 0.001
    others[1].numbers[0] = 28
    others[2].cell[0, 0] = 5.1
    others[3].pbc[2] = False
    assert structure_key(atoms) == structure_key(same)
    assert len({structure_key(one) for one in (atoms, *others)}) == 5
    assert shared([same, *others], [atoms]) == [same]
    assert repeated([atoms, others[0], same, others[0]]) == [[0, 2], [1, 3]]
