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
    np.testing.assert_allclose(
        found.virial, expected.virial, atol=error * scale, err_msg=str(case)
    )


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
