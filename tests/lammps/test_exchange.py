"""Ghosts' features by exchange between ranks: the numbers of one rank, with ghosts of one hop."""

import numpy as np
import pytest
from engine import PER_ATOM, ZERO_STEPS, start_line, system
from structures import ELEMENTS, rattled, structures

pytestmark = [pytest.mark.lammps, pytest.mark.mpi]

STYLES = ("nequip", "mace")
FUSED = {"operators": "fused", "bound": 1e-9}
EVERY = structures()
SLAB = structures()["slab"].repeat((2, 2, 1))


@pytest.fixture(scope="module")
def job(alloy_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exchange")

    def job(style, atoms, *, before=(), after=(), halo="exchange", lines=ZERO_STEPS, **deploy):
        model = alloy_model(style, deploy=FUSED | deploy)
        pair = [f"pair_style {style} halo {halo}", f"pair_coeff * * {model} Cu Au"]
        start = system(atoms, ELEMENTS, style, model, folder=folder, before=before, pair=pair)
        return {"commands": [*start, *after, *lines], "computes": ["kanpress"]}

    return job


@pytest.fixture(scope="module")
def alone(engine, job):
    """What one rank says, by style and structure."""
    cases = [(style, name) for style in STYLES for name in EVERY]
    results = engine.run([job(style, EVERY[name]) for style, name in cases])
    return dict(zip(cases, results, strict=True))


def assert_same(found, expected, case, *, error=1e-8):
    assert found.error == expected.error == "", case
    assert abs(found.energy - expected.energy) <= error, case
    # per-atom virials are in bar Å³
    for key, unit in (("eatom", 1.0), ("f", 1.0), ("vatom", 1.6e6), ("cvatom", 1.6e6)):
        np.testing.assert_allclose(
            found.atoms[key], expected.atoms[key], atol=error * unit, err_msg=f"{case} {key}"
        )
    scale = max(np.abs(expected.virial).max(), 1.0)
    np.testing.assert_allclose(found.virial, expected.virial, atol=error * scale, err_msg=str(case))


@pytest.mark.parametrize(
    ("ranks", "before"),
    [
        pytest.param(2, [], id="2"),
        pytest.param(2, ["newton off"], id="2, newton off"),
        pytest.param(3, [], id="3"),
        pytest.param(4, ["processors 2 2 1"], id="4"),
        pytest.param(8, [], id="8"),
    ],
)
def test_ranks_that_exchange_say_what_one_rank_says(ranks, before, engine, job, alone):
    """Boxes smaller than a cutoff and ranks without atoms, which take part all the same."""
    jobs = [job(style, EVERY[name], before=before) for style, name in alone]
    results = dict(zip(alone, engine.run(jobs, ranks=ranks), strict=True))
    for case, result in results.items():
        assert_same(result, alone[case], case)
        assert start_line(result.output)[0] == "exchange", case
    assert any(0 in result.owned_by_rank for result in results.values())


def test_ghosts_are_those_of_one_hop(engine, job, alone):
    """The same numbers with the ghosts of two hops computed, which are more."""
    atoms = SLAB.repeat((2, 1, 1))
    thin = ["neighbor 0.3 bin"]
    jobs = [
        job(style, atoms, after=thin, halo=halo)
        for style in STYLES
        for halo in ("exchange", "recompute")
    ]
    results = engine.run(jobs, ranks=2)
    for exchanged, computed in zip(results[::2], results[1::2], strict=True):
        assert_same(exchanged, computed, "both halos")
        (one, own, few, edges), (two, same, many, more) = (
            start_line(result.output) for result in (exchanged, computed)
        )
        assert (one, two) == ("exchange", "halo")
        assert own == same == len(atoms)
        assert few < 0.75 * many
        assert edges < more


@pytest.mark.parametrize("newton", ["on", "off"])
def test_domains_of_any_shape_agree(newton, engine, job):
    """Balanced, tiled, ghosts further out than needed, neighbour lists by size of the atoms."""
    ways = [
        {"after": ["balance 1.0 shift xy 5 1.0"]},
        {"before": ["comm_style tiled"], "after": ["neighbor 0.3 bin", "balance 1.0 rcb"]},
        {"after": ["comm_modify cutoff 9.5"]},
        {"after": ["neighbor 1.0 multi", "comm_modify mode multi"]},
    ]
    before = [f"newton {newton}"]
    one = engine.run([job(style, SLAB) for style in STYLES])
    jobs = [
        job(style, SLAB, **way | {"before": before + way.get("before", [])})
        for style in STYLES
        for way in ways
    ]
    results = iter(engine.run(jobs, ranks=3))
    for style, expected in zip(STYLES, one, strict=True):
        for way in ways:
            assert_same(next(results), expected, (style, way))


def test_a_trajectory_that_exchanges_is_that_of_one_rank(engine, job):
    """Atoms change ranks and ghosts change owners on the way."""
    steps = [
        *PER_ATOM,
        "velocity all create 900 4711",
        "neighbor 0.3 bin",
        "neigh_modify every 1 delay 0 check yes",
        "fix 1 all nve",
        "timestep 0.002",
        "run 60",
    ]
    atoms = rattled((4, 2, 2), seed=4)
    jobs = [job(style, atoms, lines=steps) for style in STYLES]
    one, two = engine.run(jobs), engine.run(jobs, ranks=2)
    for alone, together in zip(one, two, strict=True):
        assert_same(together, alone, "at the end", error=1e-5)
        np.testing.assert_allclose(together.atoms["v"], alone.atoms["v"], atol=1e-4)


def test_float32_files_exchange_in_float32(engine, job):
    jobs = [job(style, EVERY["triclinic"], dtype="float32", bound=1e-6) for style in STYLES]
    for expected, found in zip(engine.run(jobs), engine.run(jobs, ranks=3), strict=True):
        assert_same(found, expected, "float32", error=1e-5)
        assert start_line(found.output)[0] == "exchange"


def test_files_without_passes_exchange(engine, job):
    """Upstream's own layers: every rank computes features of ghosts without edges, in vain."""
    cases = [(style, name) for style in STYLES for name in ("triclinic", "own images", "dimer")]
    jobs = [job(style, EVERY[name], passes="none") for style, name in cases]
    for case, expected, found in zip(
        cases, engine.run(jobs), engine.run(jobs, ranks=3), strict=True
    ):
        assert_same(found, expected, case)
        assert start_line(found.output)[0] == "exchange"


def test_aotinductor_files_exchange(engine, job):
    """Nodes that such a file is padded with take no part: ranks with one atom and with none."""
    names = ("triclinic", "own images", "dimer", "single atom")
    jobs = [job("nequip", EVERY[name], backend="aotinductor") for name in names]
    for name, expected, found in zip(
        names, engine.run(jobs), engine.run(jobs, ranks=3), strict=True
    ):
        assert "AOTInductor on cpu" in found.output
        assert_same(found, expected, name)
        assert start_line(found.output)[0] == "exchange"


def test_hybrid_styles_have_room_for_features(engine, job, alloy_model, tmp_path):
    """LAMMPS makes its buffers for the hybrid style, which is set up before it knows the models."""
    zbl = ["pair_coeff 1 1 zbl 29 29", "pair_coeff 1 2 zbl 29 79", "pair_coeff 2 2 zbl 79 79"]
    jobs = []
    for style in STYLES:
        model = alloy_model(style, deploy=FUSED)
        pair = [
            f"pair_style hybrid/overlay {style} halo exchange zbl 2.0 3.5",
            f"pair_coeff * * {style} {model} Cu Au",
            *zbl,
        ]
        lines = system(EVERY["triclinic"], ELEMENTS, style, model, folder=tmp_path, pair=pair)
        jobs.append({"commands": [*lines, *ZERO_STEPS], "computes": ["kanpress"]})
    for expected, found in zip(engine.run(jobs), engine.run(jobs, ranks=2), strict=True):
        assert_same(found, expected, "hybrid/overlay")
        assert start_line(found.output)[0] == "exchange"


def test_a_file_that_cannot_exchange_names_the_remedy(engine, job):
    lines = job("nequip", EVERY["triclinic"], operators="portable")
    (refused,) = engine.run([lines], ranks=2)
    assert "halo exchange needs a file that asks for its ghosts' features" in refused.error
    assert "or write: pair_style nequip halo recompute" in refused.error
    (alone,) = engine.run([lines])
    assert alone.error == ""  # one rank has nothing to exchange


def test_files_exchange_where_they_can_unless_told_otherwise(engine, job):
    ways = {"exchange": {}, "halo": {"operators": "portable"}}
    jobs = [job("mace", EVERY["slab"], halo="auto", **deploy) for deploy in ways.values()]
    for layout, result in zip(ways, engine.run(jobs, ranks=2), strict=True):
        assert result.error == ""
        assert start_line(result.output)[0] == layout
