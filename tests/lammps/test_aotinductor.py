"""A file of the AOTInductor backend is the trained model, in Python and in LAMMPS.

One model and two exports for all of it: exporting takes as long as hundreds of tests.
"""

import numpy as np
import pytest
import torch
from engine import ZERO_STEPS, system
from structures import ELEMENTS, structures

from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.reference import evaluate
from kan_md_deploy import load_deployed
from kan_md_deploy.frames import reference_graphs
from kan_md_deploy.verify import deviation
from kan_md_deploy.wrapper import make_edge_model

pytestmark = pytest.mark.lammps

MODEL = {"type_names": ELEMENTS, "num_scalar_features": 4, "readout": {"kind": "mlp"}}


@pytest.fixture(
    scope="module",
    params=[{"bound": 0.0}, {"bound": 1e-9, "operators": "fused"}],
    ids=["plain tensors", "operator"],
)
def package(deployed, request):
    return deployed("allegro", deploy={"backend": "aotinductor", **request.param}, **MODEL)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return load_checkpoint(tiny_checkpoint("allegro", **MODEL))


def test_package_is_the_same_function(package, checkpoint, request):
    model = load_deployed(package)
    assert ("fused_allegro" in model.manifest.passes) == ("operator" in request.node.callspec.id)
    assert model.manifest.backend == "aotinductor"
    assert model.manifest.threads == torch.get_num_threads()
    found = deviation(model, make_edge_model(checkpoint.build()), reference_graphs(checkpoint))
    assert found.force < 1e-9
    alone = model(
        torch.zeros(0, 3),
        torch.zeros(2, 0, dtype=torch.int64),
        torch.tensor([0]),
        torch.tensor([1]),
    )
    assert alone[0].item() == pytest.approx(-1.0, abs=1e-12)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi)])
def test_lammps_says_what_the_eager_model_says(engine, package, checkpoint, tmp_path, ranks):
    """Empty ranks, no edges and a single edge included: the export has two of each at least."""
    eager = checkpoint.build()
    jobs = [
        {
            "commands": [
                *system(atoms, ELEMENTS, "allegro", package, folder=tmp_path),
                *ZERO_STEPS,
            ],
            "computes": ["kanpress"],
        }
        for atoms in structures().values()
    ]
    results = engine.run(jobs, ranks=ranks)
    for (name, atoms), result in zip(structures().items(), results, strict=True):
        assert result.error == "", name
        expected = evaluate(eager, atoms)
        assert abs(result.energy - expected["energy"].item()) <= 1e-8 * len(atoms), name
        np.testing.assert_allclose(result.atoms["eatom"], expected["atomic_energy"], atol=1e-8)
        np.testing.assert_allclose(result.forces, expected["forces"], atol=1e-7, err_msg=name)
        scale = max(float(expected["virial"].abs().max()), 1e-6)
        np.testing.assert_allclose(result.virial, expected["virial"], atol=1e-6 * scale)
    assert "AOTInductor on cpu" in results[0].output


def test_another_number_of_threads_is_warned_of(engine, package, tmp_path):
    atoms = structures()["dimer"]
    commands = [*system(atoms, ELEMENTS, "allegro", package, folder=tmp_path), "run 0"]
    (result,) = engine.run([{"commands": commands}], threads=2)
    assert "compiled for 1 threads per rank, this run has 2; deploy it again" in result.output
