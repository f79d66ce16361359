"""Deploy passes on tensor models: the same tensors, ghosts included, and what the file says."""

from __future__ import annotations

import zipfile
from dataclasses import replace

import pytest
import torch

from kan_md.backbones import build_model
from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.errors import KanMdError
from kan_md.kan.layer import KANLayer
from kan_md.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from kan_md.ops import library
from kan_md.tasks.potential import PotentialTask
from kan_md.tasks.tensor import TensorTask
from kan_md.tasks.tensor_deviation import tensor_deviations
from kan_md_deploy import deploy, load_deployed
from kan_md_deploy.inspect import describe_file
from kan_md_deploy.judged_graphs import graph_of, made_up_crystal
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.kan_collapse import KANCollapse
from kan_md_deploy.passes.registry import choose_passes, run_passes

TYPES = ("Mg", "O")
R_MAX = 4.0
ONE = ("bec",)
TWO = ({"name": "bec"}, {"name": "stress_like", "rank": 2, "symmetry": "symmetric"})
TASK = TensorTask.of_arguments({"tensors": list(ONE)})
BOUND = {"float64": 1e-7, "float32": 1e-6}
TOLERANCE = {"float64": 1e-6, "float32": 2e-5}
BASES = pytest.mark.parametrize("basis", ["gaussian", "bspline", "fourier"])
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def settings(readout, tensors=ONE):
    return {
        "seed": 5,
        "type_names": list(TYPES),
        "r_max": R_MAX,
        "triplet_r_max": 3.2,
        "num_layers": 1,
        "num_features": 10,
        "num_triplet_features": 6,
        "num_radial": 4,
        "num_angular": 3,
        "avg_num_neighbors": 30.0,
        "tensors": list(tensors),
        "readout": readout,
    }


def build(dtype, readout, tensors=ONE):
    """Weights do not depend on the dtype: gains differ by input, one of them is zero."""
    arguments = settings(readout, tensors)
    model = build_model("etgnn", model_dtype="float64", **arguments)
    for layer in model.modules():
        if isinstance(layer, KANLayer):
            layer.input_gain.data = torch.linspace(-1.3, 1.5, layer.in_features).double()
            layer.input_gain.data[1] = 0.0
    if dtype == "float64":
        return model.eval()
    narrow = build_model("etgnn", model_dtype=dtype, **arguments)
    narrow.load_state_dict(model.state_dict())
    return narrow.eval()


def graphs():
    return (graph_of(made_up_crystal(TYPES, R_MAX), R_MAX, TYPES),)


def context_of(dtype, operators):
    return PassContext(
        static_shapes=False,
        num_types=len(TYPES),
        r_max=R_MAX,
        bound=BOUND[dtype],
        graphs=graphs(),
        operators=operators,
        task=TASK,
    )


def optimise(dtype, readout, *, tensors=ONE, operators="fused"):
    """Deviation of the rewritten model from eager float64, and the reports."""
    with nequip_settings():
        eager = TASK.edge_model(build("float64", readout, tensors))
        model = build(dtype, readout, tensors)
        reports = run_passes(model, choose_passes("default"), context_of(dtype, operators))
        found = tensor_deviations(TASK.edge_model(model), eager, graphs(), {"all": slice(None)})
        return found["all"], reports


@BASES
@DTYPES
@pytest.mark.parametrize("tensors", [ONE, TWO], ids=["one tensor", "two tensors"])
def test_optimised_heads_are_the_eager_ones(operators, basis, dtype, tensors):
    found, reports = optimise(dtype, {"basis": basis}, tensors=tensors)
    assert found < TOLERANCE[dtype]
    assert list(reports) == ["kan_collapse"]
    report = reports["kan_collapse"]
    assert report["bound"] <= BOUND[dtype]
    assert report["tensor_change"] < TOLERANCE[dtype]
    # 17 outputs per edge of 10 inputs; one per atom and two or one per triplet of 6.
    assert report["functions"] == 170 * len(tensors) + {1: 22, 2: 38}[len(tensors)]


@BASES
@DTYPES
def test_portable_heads_are_the_eager_ones(basis, dtype):
    found, reports = optimise(dtype, {"basis": basis}, operators="portable")
    assert found < TOLERANCE[dtype]
    assert "operator" not in reports["kan_collapse"]
    # Layers with many outputs are faster as they are.
    assert reports["kan_collapse"]["functions"] == 22


@pytest.mark.parametrize(
    "readout",
    [
        pytest.param({"sites": ["all"], "num_basis": 4}, id="KAN everywhere"),
        pytest.param({"hidden": [5]}, id="two layers"),
        pytest.param({"projection": 3}, id="projected"),
        pytest.param({"base": "none", "basis": "bspline"}, id="without SiLU"),
        pytest.param({"grid_range": [-0.1, 0.1], "basis": "bspline"}, id="SiLU apart"),
    ],
)
def test_other_readouts_are_kept_too(operators, readout):
    found, reports = optimise("float64", readout)
    assert found < 1e-6
    assert "operator" in reports["kan_collapse"]


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_passes_leave_other_readouts_alone(operators, kind):
    assert optimise("float64", {"kind": kind})[1] == {}


def test_layers_of_a_potential_with_many_outputs_stay(operators, tiny_checkpoint):
    readout = {"sites": ["latent"], "num_basis": 4}
    checkpoint = load_checkpoint(tiny_checkpoint("allegro", readout=readout))
    context = replace(context_of("float32", "fused"), task=PotentialTask())
    with nequip_settings():
        assert not KANCollapse().applies_to(checkpoint.build(), context)


@pytest.fixture(scope="module")
def checkpoint_path(tmp_path_factory):
    model = build("float32", {"basis": "bspline"})
    arguments = settings({"basis": "bspline"})
    crystal = made_up_crystal(TYPES, R_MAX)
    checkpoint = Checkpoint(
        backbone="etgnn",
        config={"model": arguments | {"model_dtype": "float32"}},
        type_names=list(TYPES),
        r_max=R_MAX,
        state_dict=model.state_dict(),
        reference_frames=TensorTask.of_arguments(arguments).reference_frames(model, [crystal]),
    )
    return save_checkpoint(checkpoint, tmp_path_factory.mktemp("tensors") / "model.pth")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"operators": "fused"}, ["kan_collapse"]),
        ({"operators": "fused", "passes": "fused_kan"}, ["kan_collapse"]),
        ({"operators": "portable"}, ["kan_collapse"]),
        ({"operators": "fused", "passes": "none"}, []),
        ({"operators": "fused", "dtype": "float64", "bound": 0.0}, []),
        ({"operators": "fused", "dtype": "float64", "bound": 1e-8}, ["kan_collapse"]),
    ],
    ids=["default", "its old name", "portable", "none", "float64 without tables", "float64"],
)
def test_manifest_names_the_passes(operators, checkpoint_path, tmp_path, options, expected):
    path = deploy(checkpoint_path, tmp_path / "model.deployed.pth", **options)
    passes = describe_file(path)["passes"]
    assert sorted(passes) == expected
    with zipfile.ZipFile(path) as archive:
        code = b"".join(archive.read(n) for n in archive.namelist() if "/code/" in n)
    on_operators = "operator" in passes.get("kan_collapse", {})
    assert on_operators == (bool(expected) and options["operators"] == "fused")
    assert (b"ops.kan_md." in code) == on_operators
    crystal = made_up_crystal(TYPES, R_MAX)
    plain = deploy(checkpoint_path, tmp_path / "plain.pth", passes="none", dtype="float64")
    expected_charges, charges = (
        torch.from_numpy(load_deployed(file).predict(crystal)["bec"]) for file in (plain, path)
    )
    scale = expected_charges.abs().max().item()
    atol = 2e-5 if options.get("dtype") != "float64" else 1e-7
    torch.testing.assert_close(charges, expected_charges, rtol=0, atol=atol * scale)


def test_a_fused_file_says_what_it_needs(operators, checkpoint_path, tmp_path, monkeypatch):
    path = deploy(checkpoint_path, tmp_path / "model.deployed.pth", operators="fused")
    monkeypatch.setattr(library, "_is_registered", lambda: False)
    monkeypatch.setenv(library.OVERRIDE, str(tmp_path / "none.so"))
    with pytest.raises(KanMdError, match=r"no operator library, got no .*none.so; run: kan-md bu"):
        load_deployed(path)


def test_mistakes_are_told(operators, checkpoint_path, monkeypatch):
    with pytest.raises(KanMdError, match=r"bound of the tables, got 1.5; allowed: 0 <= bound < 1"):
        deploy(checkpoint_path, bound=1.5)
    with pytest.raises(KanMdError, match=r"unknown optimisation pass, got 'heads'; allowed: none"):
        deploy(checkpoint_path, passes="heads")
    spoil = "kan_md_deploy.compilation.run_passes"

    def double(model, passes, context):
        next(module for module in model.modules() if isinstance(module, KANLayer)).coefficients *= 2
        return {}

    monkeypatch.setattr(spoil, torch.no_grad()(double))
    with pytest.raises(KanMdError, match=r"differs from the trained one .* deploy with `--passes"):
        deploy(checkpoint_path)
