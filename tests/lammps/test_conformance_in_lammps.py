"""What every deployed file is held to in LAMMPS, whatever the model, passes, backend and dtype.

A line in tests/conformance.py is all that a new backbone or pass needs. LAMMPS is held against the
eager model, which sees positions, and one number of ranks against another.
"""

from itertools import product

import numpy as np
import pytest
from conformance import ELEMENTS, LINES, MODELS
from engine import ZERO_STEPS, start_line, system
from structures import structures

from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.reference import evaluate
from kan_md_deploy.archive import read_manifest

pytestmark = pytest.mark.lammps

PERIODIC = ("orthogonal", "triclinic", "own images", "slab")
CLUSTER = "cluster in a corner"
MANY_GHOSTS_OR_NO_ATOMS = ("triclinic", "own images", "dimer")
"""Ghosts, ghosts that are images of owned atoms, ranks without atoms."""
SPREAD = [f"{s}: portable" for s in dict.fromkeys(m.style for m in MODELS.values())]
"""How atoms are spread over ranks is the pair styles' matter: one file of each sees all cases."""
ONE_OF_EACH = [
    f"{name}: {choice}"
    for name, choice in (
        ("allegro", "fused"),
        ("nequip", "fused"),
        ("mace", "fused"),
        ("mace of one layer", "fused"),
        ("allegro, small", "AOTInductor, fused"),
        ("nequip", "AOTInductor, fused"),
    )
]
"""Every operator, and the other backend with and without a halo."""


@pytest.fixture(scope="session")
def file_of(deployed):
    def file(line):
        model, choice = LINES[line]
        return deployed(model.style, deploy=choice.deploy, **model.arguments)

    return file


@pytest.fixture(scope="module")
def eager_says(tiny_checkpoint):
    """Energies, forces and virial of a structure by positions, float64."""
    built, said = {}, {}

    def say(line, structure):
        model, _ = LINES[line]
        path = tiny_checkpoint(model.style, **model.arguments)
        if path not in built:
            built[path] = load_checkpoint(path).build("float64")
        if (path, structure) not in said:
            said[path, structure] = evaluate(built[path], structures()[structure])
        return said[path, structure]

    return say


@pytest.fixture(scope="module")
def run(engine, file_of, tmp_path_factory):
    """Results of ``(line, structure)`` cases, all in one process (per rank)."""
    folder = tmp_path_factory.mktemp("conformance")

    def run(cases, *, elements=ELEMENTS, before=(), lines=ZERO_STEPS, **options):
        known = structures()
        jobs = [
            {
                "commands": [
                    *system(
                        known[name],
                        elements,
                        LINES[line].model.style,
                        file_of(line),
                        folder=folder,
                        before=before,
                    ),
                    *lines,
                ],
                "computes": ["kanpress"] if lines is ZERO_STEPS else [],
            }
            for line, name in cases
        ]
        results = dict(zip(cases, engine.run(jobs, **options), strict=True))
        for case, result in results.items():
            assert result.error == "", case
        return results

    return run


@pytest.fixture(scope="module")
def one_rank(run):
    return run([(line, name) for line in LINES for name in structures()])


def check_sums(result, case, *, single):
    """Atoms' energies and virials, in both definitions, add up to the system's.

    Forces in float32 turn the system a little, so that r x F is not quite symmetric.
    """
    assert result.atoms["eatom"].sum() == pytest.approx(result.energy, abs=1e-9), case
    # stress/atom is -virial x pressure units; components xx yy zz xy xz yz yx zx zy
    pressure = -np.array(result.values["kanpress"]) * result.thermo["vol"]
    tolerance = (1e-6 if single else 1e-9) * (np.abs(pressure).max() + 1e-6)
    centroid = result.atoms["cvatom"].sum(0)
    for found, expected in (
        (result.atoms["vatom"].sum(0), pressure),
        (centroid[:6], pressure),
        (centroid[6:], pressure[3:]),
    ):
        np.testing.assert_allclose(found, expected, atol=tolerance, err_msg=str(case))


@pytest.mark.parametrize("line", LINES)
def test_lammps_says_what_the_eager_model_says(line, one_rank, eager_says):
    error = 10 * LINES[line].choice.error
    for name, atoms in structures().items():
        result, expected = one_rank[line, name], eager_says(line, name)
        assert abs(result.energy - expected["energy"].item()) <= error * len(atoms), name
        np.testing.assert_allclose(
            result.atoms["eatom"], expected["atomic_energy"], atol=error, err_msg=name
        )
        for key, found in (("forces", result.forces), ("virial", result.virial)):
            scale = max(float(expected[key].abs().max()), 1.0)
            np.testing.assert_allclose(found, expected[key], atol=error * scale, err_msg=name)


@pytest.mark.parametrize("line", LINES)
def test_per_atom_values_add_up_to_the_global_ones(line, one_rank):
    for name in PERIODIC:
        check_sums(one_rank[line, name], name, single=LINES[line].choice.single)


@pytest.mark.parametrize("line", LINES)
def test_isolated_atoms_have_their_reference_energies(line, one_rank):
    # Au is the second type: per_type_energy_shifts of tests/conftest.py
    assert one_rank[line, "single atom"].energy == pytest.approx(-2.0, abs=1e-12)
    assert one_rank[line, "broken dimer"].energy == pytest.approx(-3.0, abs=1e-12)
    assert not one_rank[line, "broken dimer"].forces.any()


@pytest.mark.parametrize("line", LINES)
def test_energy_is_smooth_as_a_bond_breaks(line, one_rank):
    # The envelope is flat to second order at least: 1e-3 Å inside, little is left.
    assert one_rank[line, "stretched dimer"].energy == pytest.approx(-3.0, abs=1e-5)


def test_files_are_run_as_what_they_are(one_rank, file_of):
    for line in LINES:
        output = one_rank[line, "triclinic"].output
        assert ("AOTInductor on cpu" in output) == (LINES[line].choice.backend == "aotinductor")
        layout, atoms, ghosts, _ = start_line(one_rank[line, "own images"].output)
        if read_manifest(file_of(line)).num_layers > 1:
            assert (layout, atoms, ghosts) == ("periodic images", 4, 0), line


def test_elements_are_mapped_by_name(run, one_rank):
    """Atom types in the other order than the file's."""
    cases = [(line, "triclinic") for line in ONE_OF_EACH]
    for case, result in run(cases, elements=ELEMENTS[::-1]).items():
        np.testing.assert_allclose(result.forces, one_rank[case].forces, atol=1e-10)
        assert result.energy == pytest.approx(one_rank[case].energy, abs=1e-9)


def test_openmp_threads_agree(run, one_rank):
    cases = [(line, "triclinic") for line in LINES]
    for case, result in run(cases, threads=2).items():
        single = LINES[case[0]].choice.single
        rounding = 1e-6 if single else 1e-10
        np.testing.assert_allclose(result.forces, one_rank[case].forces, atol=rounding)
        assert result.energy == pytest.approx(one_rank[case].energy, abs=10 * rounding)
        check_sums(result, case, single=single)
        exported = LINES[case[0]].choice.backend == "aotinductor"
        warned = "compiled for 1 threads per rank, this run has 2; deploy it again" in result.output
        assert warned == exported, case


def test_newton_off_on_one_rank(run, one_rank):
    cases = [(line, "triclinic") for line in ONE_OF_EACH]
    for case, result in run(cases, before=["newton off"]).items():
        np.testing.assert_allclose(result.forces, one_rank[case].forces, atol=1e-10)
        np.testing.assert_allclose(
            result.atoms["cvatom"], one_rank[case].atoms["cvatom"], atol=1e-4
        )


TWO_RANKS = [
    *product(SPREAD, structures()),
    *product(LINES, ["triclinic"]),
    *product(ONE_OF_EACH, MANY_GHOSTS_OR_NO_ATOMS),
]
NEWTON_OFF = [*product(SPREAD, [*PERIODIC, CLUSTER]), *product(ONE_OF_EACH, ["triclinic"])]
FOUR_RANKS = [
    *product(SPREAD, ["triclinic", "slab", CLUSTER]),
    *product(ONE_OF_EACH, MANY_GHOSTS_OR_NO_ATOMS),
]


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("ranks", "before", "cases"),
    [
        pytest.param(2, [], TWO_RANKS, id="2 ranks"),
        pytest.param(2, ["newton off"], NEWTON_OFF, id="2 ranks, newton off"),
        pytest.param(4, ["processors 2 2 1"], FOUR_RANKS, id="4 ranks"),
    ],
)
def test_ranks_agree(ranks, before, cases, run, one_rank):
    results = run(list(dict.fromkeys(cases)), ranks=ranks, before=before)
    for case, result in results.items():
        alone, single = one_rank[case], LINES[case[0]].choice.single
        error = 1e-5 if single else 1e-8
        assert abs(result.energy - alone.energy) <= error, case
        for key, unit in (("eatom", 1.0), ("f", 1.0), ("vatom", 1.6e6), ("cvatom", 1.6e6)):
            np.testing.assert_allclose(
                result.atoms[key], alone.atoms[key], atol=error * unit, err_msg=f"{case} {key}"
            )
        scale = max(np.abs(alone.virial).max(), 1.0)
        np.testing.assert_allclose(
            result.virial, alone.virial, atol=error * scale, err_msg=str(case)
        )
        check_sums(result, case, single=single)
    assert any(0 in result.owned_by_rank for result in results.values())


@pytest.mark.mpi
def test_a_trajectory_on_two_ranks_is_that_on_one(run):
    """Atoms change ranks and ghosts change owners on the way."""
    steps = [
        "replicate 2 1 1",
        "velocity all create 900 4711",
        "neighbor 0.3 bin",
        "neigh_modify every 1 delay 0 check yes",
        "fix 1 all nve",
        "timestep 0.002",
        "run 60",
    ]
    cases = [(line, "triclinic") for line in ONE_OF_EACH]
    alone, together = run(cases, lines=steps), run(cases, lines=steps, ranks=2)
    for case in cases:
        one, two = alone[case], together[case]
        assert two.energy == pytest.approx(one.energy, abs=1e-6), case
        np.testing.assert_allclose(two.atoms["v"], one.atoms["v"], atol=1e-4, err_msg=str(case))
