"""Files that call kan-md's own operators: upstream's numbers in LAMMPS, on any number of ranks."""

import numpy as np
import pytest
from engine import ZERO_STEPS, system
from manifests import as_of_before, calling_another, with_manifest
from structures import ELEMENTS, structures

from kan_md_deploy import load_deployed

KANS = {"readout": {"sites": ["all"], "num_basis": 5}, "num_layers": 2}
ZBL = {
    "pair_potential": {
        "_target_": "nequip.nn.pair_potential.ZBL",
        "units": "metal",
        "chemical_species": list(ELEMENTS),
    }
}
DENSITY = {
    "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
    "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
}
ONE_LAYER = {"num_interactions": 1, "readout": {"kind": "mlp"}}
MODELS = {
    "allegro": ("allegro", {}),
    "allegro of KANs": ("allegro", KANS),
    "allegro, two KAN layers, repulsion": ("allegro", {"readout": {"hidden": [4]}, **ZBL}),
    "nequip": ("nequip", {}),
    "nequip, repulsion": ("nequip", ZBL),
    "mace": ("mace", {}),
    "mace, densities": ("mace", DENSITY),
    "mace of one layer, mlp": ("mace", ONE_LAYER),
    "mace of one layer, kan": ("mace", {"num_interactions": 1}),
    "mace of one layer, kan per element": (
        "mace",
        {"num_interactions": 1, "readout": {"per_type": True, "num_basis": 5}},
    ),
}
"""Style and keywords of the models."""
FUSED = {name: "fused_local_mace" for name in MODELS if "of one layer" in name}
"""The pass that takes a model as a whole, where it is not that of its style."""
BOUND = 1e-8
"""Of the tables, relative to the largest value of a function; energies here are of some eV."""

pytestmark = pytest.mark.lammps


@pytest.fixture(scope="module")
def files(alloy_model):
    found = {
        model: alloy_model(style, deploy={"operators": "fused", "bound": BOUND}, **keywords)
        for model, (style, keywords) in MODELS.items()
    }
    for model, path in found.items():
        wanted = FUSED.get(model, f"fused_{MODELS[model][0]}")
        assert wanted in load_deployed(path).manifest.passes
    return found


@pytest.fixture(scope="module")
def cases():
    return [(model, name) for model in MODELS for name in structures()]


def run(engine, cases, files, folder, *, before=(), **options):
    known = structures()
    jobs = [
        {
            "commands": [
                *system(
                    known[name],
                    ELEMENTS,
                    MODELS[model][0],
                    files[model],
                    folder=folder,
                    before=before,
                ),
                *ZERO_STEPS,
            ],
            "computes": ["kanpress"],
        }
        for model, name in cases
    ]
    return dict(zip(cases, engine.run(jobs, **options), strict=True))


@pytest.fixture(scope="module")
def one_rank(engine, cases, files, tmp_path_factory):
    return run(engine, cases, files, tmp_path_factory.mktemp("operators"))


def test_lammps_says_what_the_eager_model_says(cases, one_rank, python_says):
    for model, name in cases:
        result, atoms = one_rank[model, name], structures()[name]
        assert result.error == "", (model, name)
        style, keywords = MODELS[model]
        expected, _ = python_says(style, atoms, **keywords)
        largest = max(np.abs(expected["forces"]).max(), 1.0)
        assert abs(result.energy - expected["energy"]) <= 10 * BOUND * len(atoms)
        np.testing.assert_allclose(
            result.forces, expected["forces"], atol=100 * BOUND * largest, err_msg=f"{model} {name}"
        )
        scale = max(np.abs(expected["virial"]).max(), 1.0)
        np.testing.assert_allclose(result.virial, expected["virial"], atol=100 * BOUND * scale)


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("ranks", "before"),
    [
        pytest.param(2, [], id="2 ranks"),
        pytest.param(2, ["newton off"], id="2 ranks, newton off"),
        pytest.param(4, ["processors 2 2 1"], id="4 ranks"),
    ],
)
def test_ranks_agree(engine, cases, files, one_rank, tmp_path, ranks, before):
    """Small boxes, where ghosts are images of owned atoms, and empty ranks included."""
    results = run(engine, cases, files, tmp_path, before=before, ranks=ranks)
    for case, result in results.items():
        alone = one_rank[case]
        assert result.error == "", case
        assert abs(result.energy - alone.energy) <= 1e-8, case
        for key in ("eatom", "f"):
            np.testing.assert_allclose(
                result.atoms[key], alone.atoms[key], atol=1e-8, err_msg=f"{case} {key}"
            )
        np.testing.assert_allclose(result.virial, alone.virial, atol=1e-8, err_msg=str(case))
        np.testing.assert_allclose(
            result.atoms["cvatom"], alone.atoms["cvatom"], atol=1e-8 * 1.6e6, err_msg=str(case)
        )
    assert any(0 in result.owned_by_rank for result in results.values())


def test_threads_agree(engine, cases, files, one_rank, tmp_path):
    for case, result in run(engine, cases, files, tmp_path, threads=2).items():
        np.testing.assert_allclose(result.forces, one_rank[case].forces, atol=1e-10)


@pytest.mark.mpi
def test_a_trajectory_on_two_ranks_is_that_on_one(engine, files, tmp_path):
    """Atoms change ranks and ghosts change owners on the way."""
    atoms = structures()["triclinic"].repeat((2, 1, 1))
    steps = [
        "velocity all create 900 4711",
        "neighbor 0.3 bin",
        "neigh_modify every 1 delay 0 check yes",
        "fix 1 all nve",
        "timestep 0.002",
        "run 150",
    ]
    jobs = [
        {"commands": [*system(atoms, ELEMENTS, style, files[model], folder=tmp_path), *steps]}
        for model, (style, _) in MODELS.items()
    ]
    alone, together = engine.run(jobs), engine.run(jobs, ranks=2)
    for model, one, two in zip(MODELS, alone, together, strict=True):
        assert one.error == two.error == ""
        assert two.energy == pytest.approx(one.energy, abs=1e-6), model
        order_one, order_two = np.argsort(one.atoms["id"]), np.argsort(two.atoms["id"])
        np.testing.assert_allclose(
            two.atoms["v"][order_two], one.atoms["v"][order_one], atol=1e-4, err_msg=model
        )


def test_files_of_before_run_and_unknown_operators_are_named(engine, files, tmp_path):
    now = files["allegro"]
    chosen = {
        "now": now,
        "before": with_manifest(now, tmp_path / "before.pth", as_of_before),
        "later": with_manifest(now, tmp_path / "later.pth", calling_another),
    }
    jobs = [
        {
            "commands": [
                *system(structures()["triclinic"], ELEMENTS, "allegro", file, folder=tmp_path),
                *ZERO_STEPS,
            ]
        }
        for file in chosen.values()
    ]
    new, old, unknown = engine.run(jobs)
    assert new.error == old.error == ""
    np.testing.assert_array_equal(old.forces, new.forces)
    assert "operator that this build does not have, got kan_md::of_tomorrow; " in unknown.error
