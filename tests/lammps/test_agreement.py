"""Eager model, TorchScript file and LAMMPS say the same, on one rank and on several."""

import numpy as np
import pytest
from engine import ZERO_STEPS, start_line, system
from structures import ELEMENTS, structures

STYLES = ("allegro", "nequip", "mace")
PERIODIC = ("orthogonal", "triclinic", "own images", "slab")

pytestmark = pytest.mark.lammps


@pytest.fixture(scope="module")
def cases():
    return [(style, name) for style in STYLES for name in structures()]


def jobs_of(cases, alloy_model, folder, *, before=(), after=()):
    known = structures()
    return [
        {
            "commands": [
                *system(
                    known[name], ELEMENTS, style, alloy_model(style), folder=folder, before=before
                ),
                *after,
                *ZERO_STEPS,
            ],
            "computes": ["kanpress"],
        }
        for style, name in cases
    ]


@pytest.fixture(scope="module")
def one_rank(engine, cases, alloy_model, tmp_path_factory):
    jobs = jobs_of(cases, alloy_model, tmp_path_factory.mktemp("data"))
    return dict(zip(cases, engine.run(jobs), strict=True))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", structures())
def test_eager_torchscript_and_lammps_agree(style, name, one_rank, python_says):
    result = one_rank[style, name]
    assert result.error == ""
    atoms = structures()[name]
    for expected in python_says(style, atoms):
        assert abs(result.energy - expected["energy"]) <= 1e-8 * len(atoms)
        np.testing.assert_allclose(result.atoms["eatom"], expected["atomic_energy"], atol=1e-8)
        np.testing.assert_allclose(result.forces, expected["forces"], atol=1e-7)
        scale = max(np.abs(expected["virial"]).max(), 1e-6)
        np.testing.assert_allclose(result.virial, expected["virial"], atol=1e-6 * scale)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", PERIODIC)
def test_per_atom_values_add_up_to_the_global_ones(style, name, one_rank):
    check_sums(one_rank[style, name])


def check_sums(result):
    assert result.atoms["eatom"].sum() == pytest.approx(result.energy, abs=1e-9)
    # stress/atom is -virial x pressure units; components xx yy zz xy xz yz yx zx zy
    pressure = -np.array(result.values["kanpress"]) * result.thermo["vol"]
    scale = np.abs(pressure).max() + 1e-6
    np.testing.assert_allclose(result.atoms["vatom"].sum(0), pressure, atol=1e-9 * scale)
    centroid = result.atoms["cvatom"].sum(0)
    np.testing.assert_allclose(centroid[:6], pressure, atol=1e-9 * scale)
    np.testing.assert_allclose(centroid[6:], pressure[3:], atol=1e-9 * scale)


@pytest.mark.parametrize("style", STYLES)
def test_isolated_atom_has_its_reference_energy(style, one_rank):
    # Au is the second type: per_type_energy_shifts of tests/conftest.py
    assert one_rank[style, "single atom"].energy == pytest.approx(-2.0, abs=1e-12)
    assert one_rank[style, "broken dimer"].energy == pytest.approx(-3.0, abs=1e-12)
    assert not one_rank[style, "broken dimer"].forces.any()


@pytest.mark.parametrize("style", STYLES)
def test_energy_is_smooth_as_a_bond_breaks(style, one_rank):
    # The envelope is flat to second order at least: 1e-3 Å inside, little is left.
    assert one_rank[style, "stretched dimer"].energy == pytest.approx(-3.0, abs=1e-5)


def test_one_rank_maps_images_to_owners(one_rank):
    for style in ("nequip", "mace"):
        layout, atoms, ghosts, _ = start_line(one_rank[style, "own images"].output)
        assert (layout, atoms, ghosts) == ("periodic images", 4, 0)


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("ranks", "before", "after"),
    [
        pytest.param(2, [], [], id="2 ranks"),
        pytest.param(2, ["newton off"], [], id="2 ranks, newton off"),
        pytest.param(4, ["processors 2 2 1"], [], id="4 ranks"),
    ],
)
def test_ranks_agree(ranks, before, after, engine, cases, alloy_model, one_rank, tmp_path):
    chosen = [case for case in cases if ranks == 2 or case[1] in (*PERIODIC, "cluster in a corner")]
    jobs = jobs_of(chosen, alloy_model, tmp_path, before=before, after=after)
    empty_rank_seen = False
    for case, result in zip(chosen, engine.run(jobs, ranks=ranks), strict=True):
        alone = one_rank[case]
        assert result.error == "", case
        assert abs(result.energy - alone.energy) <= 1e-8, case
        np.testing.assert_allclose(result.atoms["eatom"], alone.atoms["eatom"], atol=1e-8)
        np.testing.assert_allclose(result.forces, alone.forces, atol=1e-8, err_msg=str(case))
        np.testing.assert_allclose(result.virial, alone.virial, atol=1e-8, err_msg=str(case))
        for key in ("vatom", "cvatom"):
            np.testing.assert_allclose(
                result.atoms[key], alone.atoms[key], atol=1e-8 * 1.6e6, err_msg=f"{case} {key}"
            )
        check_sums(result)
        empty_rank_seen |= 0 in result.owned_by_rank
    assert empty_rank_seen


def test_newton_off_on_one_rank(engine, alloy_model, one_rank, tmp_path):
    cases = [(style, "triclinic") for style in STYLES]
    jobs = jobs_of(cases, alloy_model, tmp_path, before=["newton off"])
    for case, result in zip(cases, engine.run(jobs), strict=True):
        np.testing.assert_allclose(result.forces, one_rank[case].forces, atol=1e-10)
        np.testing.assert_allclose(
            result.atoms["cvatom"], one_rank[case].atoms["cvatom"], atol=1e-4
        )


def test_openmp_threads_agree(engine, alloy_model, one_rank, tmp_path):
    cases = [(style, "triclinic") for style in STYLES]
    jobs = jobs_of(cases, alloy_model, tmp_path)
    for case, result in zip(cases, engine.run(jobs, threads=2), strict=True):
        np.testing.assert_allclose(result.forces, one_rank[case].forces, atol=1e-10)
        assert result.energy == pytest.approx(one_rank[case].energy, abs=1e-10)
        check_sums(result)
