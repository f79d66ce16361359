"""Files of the AOTInductor backend are the trained models, in Python and in LAMMPS.

Four exports for all of it: exporting takes as long as hundreds of tests.
"""

import shutil
import zipfile
from typing import NamedTuple

import numpy as np
import pytest
import torch
from engine import ZERO_STEPS, system
from structures import ELEMENTS, structures

from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.reference import evaluate
from kan_md.tasks.potential_deviation import deviation
from kan_md.tasks.potential_function import make_edge_model
from kan_md_deploy import deploy, load_deployed, pipeline
from kan_md_deploy.judged_graphs import reference_graphs

pytestmark = pytest.mark.lammps


class File(NamedTuple):
    """What is deployed how.

    Attributes:
        error: of forces relative to the largest, of energies in eV per atom.
        model: keywords of its tiny checkpoint.
    """

    style: str
    deploy: dict
    error: float
    model: dict


MLP = {"num_scalar_features": 4, "readout": {"kind": "mlp"}}
OPERATORS = {"operators": "fused", "bound": 1e-9}
SINGLE = {"operators": "fused", "dtype": "float32"}
FILES = {
    "allegro, portable": File("allegro", {"bound": 0.0}, 1e-9, MLP),
    "allegro": File("allegro", OPERATORS, 1e-8, MLP),
    "nequip": File("nequip", OPERATORS, 1e-8, {}),
    "mace in single precision": File("mace", SINGLE, 1e-5, {}),
}

SEVERAL_RANKS = ("triclinic", "own images", "dimer")
"""Many ghosts, ghosts that are images of owned atoms, ranks without atoms."""


@pytest.fixture(scope="module")
def checkpoints(tiny_checkpoint):
    return {
        name: load_checkpoint(tiny_checkpoint(file.style, type_names=ELEMENTS, **file.model))
        for name, file in FILES.items()
    }


@pytest.fixture(scope="module")
def packages(deployed):
    return {
        name: deployed(
            file.style,
            deploy={"backend": "aotinductor", **file.deploy},
            type_names=ELEMENTS,
            **file.model,
        )
        for name, file in FILES.items()
    }


@pytest.mark.parametrize("name", FILES)
def test_package_is_the_same_function(packages, checkpoints, name):
    """Ghosts and graphs without edges included."""
    file, checkpoint, model = FILES[name], checkpoints[name], load_deployed(packages[name])
    assert model.manifest.backend == "aotinductor"
    assert model.manifest.threads == torch.get_num_threads()
    found = deviation(
        model, make_edge_model(checkpoint.build("float64")), reference_graphs(checkpoint)
    )
    assert found.energy < file.error
    assert found.force < file.error
    assert found.virial < file.error
    alone = model(
        torch.zeros(0, 3),
        torch.zeros(2, 0, dtype=torch.int64),
        torch.tensor([0]),
        torch.tensor([1]),
    )
    assert alone[0].item() == pytest.approx(-1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("times", "kept"), [([2.0, 1.0], "aotinductor"), ([1.0, 2.0], "torchscript")]
)
def test_auto_keeps_the_faster_file(
    packages, deployed, tiny_checkpoint, tmp_path, monkeypatch, times, kept
):
    """Of files that are there already, timed by decree; the order of backends is the contract's."""
    portable = FILES["allegro, portable"]
    written = {
        "torchscript": deployed("allegro", deploy=portable.deploy, type_names=ELEMENTS, **MLP),
        "aotinductor": packages["allegro, portable"],
    }

    def write(_, path, *, backend, **__):
        return shutil.copy(written[backend], path)

    def timed(calls):
        for call in calls:
            call()
        return times

    monkeypatch.setattr(pipeline, "_deploy_with", write)
    monkeypatch.setattr(pipeline, "median_times", timed)
    model = tiny_checkpoint("allegro", type_names=ELEMENTS, **MLP)
    path = deploy(shutil.copy(model, tmp_path / "model.pth"), backend="auto")
    assert path.name == f"model{pipeline.SUFFIX[kept]}"
    assert load_deployed(path).manifest.backend == kept
    assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / "model.pth"])


@pytest.mark.parametrize("name", FILES)
def test_only_portable_files_do_without_operators(packages, name):
    passes = load_deployed(packages[name]).manifest.passes
    fused = {name for name, report in passes.items() if "operator" in report}
    with zipfile.ZipFile(packages[name]) as archive:
        calls = any(b"kan_md::" in archive.read(entry) for entry in archive.namelist())
    expected = {"allegro": {"fused_allegro"}, "nequip": {"fused_nequip", "kan_collapse"}}
    expected |= {"mace": {"fused_mace", "kan_collapse"}}
    portable = "portable" in name
    assert fused == (set() if portable else expected[FILES[name].style])
    assert calls == (not portable)


@pytest.mark.parametrize(
    ("ranks", "wanted"),
    [
        pytest.param(1, structures(), id="1 rank"),
        pytest.param(2, SEVERAL_RANKS, marks=pytest.mark.mpi, id="2 ranks"),
        pytest.param(4, SEVERAL_RANKS, marks=pytest.mark.mpi, id="4 ranks"),
    ],
)
def test_lammps_says_what_the_eager_model_says(
    engine, packages, checkpoints, tmp_path, ranks, wanted
):
    """Empty ranks, no edges and a single edge included: the export has two of each at least."""
    cases = [(name, key, structures()[key]) for name in FILES for key in wanted]
    jobs = [
        {
            "commands": [
                *system(atoms, ELEMENTS, FILES[name].style, packages[name], folder=tmp_path),
                *ZERO_STEPS,
            ],
            "computes": ["kanpress"],
        }
        for name, _, atoms in cases
    ]
    eager = {name: checkpoint.build("float64") for name, checkpoint in checkpoints.items()}
    results = engine.run(jobs, ranks=ranks)
    for (name, structure, atoms), result in zip(cases, results, strict=True):
        case, error = f"{name}, {structure}", 10 * FILES[name].error
        assert result.error == "", case
        assert "AOTInductor on cpu" in result.output, case
        expected = evaluate(eager[name], atoms)
        assert abs(result.energy - expected["energy"].item()) <= error * len(atoms), case
        np.testing.assert_allclose(
            result.atoms["eatom"], expected["atomic_energy"], atol=error, err_msg=case
        )
        largest = max(float(expected["forces"].abs().max()), 1.0)
        np.testing.assert_allclose(
            result.forces, expected["forces"], atol=error * largest, err_msg=case
        )
        scale = max(float(expected["virial"].abs().max()), 1.0)
        np.testing.assert_allclose(
            result.virial, expected["virial"], atol=error * scale, err_msg=case
        )


def test_another_number_of_threads_is_warned_of(engine, packages, tmp_path):
    atoms = structures()["dimer"]
    commands = system(atoms, ELEMENTS, "allegro", packages["allegro"], folder=tmp_path)
    (result,) = engine.run([{"commands": [*commands, "run 0"]}], threads=2)
    assert "compiled for 1 threads per rank, this run has 2; deploy it again" in result.output
