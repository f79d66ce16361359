"""A MACE with one interaction on one operator is the function that upstream's modules compute.

In float64. What holds for every file, also in float32: tests/unit/deploy/test_conformance.py.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import ase.build
import numpy as np
import pytest
import torch
from ase.data import atomic_numbers
from ops_support import random_graph

from kan_md.backbones.build import build_model
from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.model.checkpoint import save_checkpoint
from kan_md.model.convert_mace import _mace_input, convert_mace
from kan_md.model.random_structures import random_structures
from kan_md.tasks.potential_deviation import deviation
from kan_md.tasks.potential_function import make_edge_model
from kan_md_deploy import deploy, load_deployed
from kan_md_deploy.judged_graphs import graph_of
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.fused_local_mace import FusedLocalMACE
from kan_md_deploy.passes.registry import choose_passes, run_passes
from kan_md_deploy.torchscript import compile_torchscript

R_MAX = 2.8
ALONE, TWO = ["C"], ["C", "Si"]
MANY = ["C", "Si", "H", "O", "N", "B"]  # too many for a table of every pair
KAN = {"kind": "kan", "num_basis": 4}
ROOT = {"kind": "finnis_sinclair"}
RESIDUAL = {"interaction_cls_first": "RealAgnosticResidualInteractionBlock"}
DENSITY = {"interaction_cls_first": "RealAgnosticDensityInteractionBlock"}
DENSITY_RESIDUAL = {"interaction_cls_first": "RealAgnosticDensityResidualInteractionBlock"}
CASES = [
    pytest.param(KAN, ALONE, {}, id="functions"),
    pytest.param(KAN, TWO, {}, id="functions, two elements"),
    pytest.param(KAN | {"grid_range": [-0.03, 0.04]}, TWO, {}, id="functions on narrow grids"),
    pytest.param({"kind": "linear"}, TWO, {"max_ell": 2, "correlation": 2}, id="linear"),
    pytest.param({"kind": "mlp", "hidden": [7]}, TWO, {}, id="perceptron"),
    pytest.param({"kind": "mlp", "hidden": [7, 20, 5]}, TWO, {}, id="perceptron of many layers"),
    pytest.param({"kind": "mlp", "hidden": [33]}, ALONE, RESIDUAL, id="wide perceptron"),
    pytest.param(KAN | {"hidden": [4, 18, 3]}, TWO, {}, id="network of many layers"),
    pytest.param(KAN | {"projection": 3}, ALONE, {}, id="functions of combinations"),
    pytest.param(KAN | {"hidden": [4], "basis": "bspline"}, ALONE, {}, id="network of functions"),
    pytest.param(KAN | {"per_type": True}, TWO, {}, id="functions of each element"),
    pytest.param(
        KAN | {"per_type": True, "projection": 3, "hidden": [4]},
        TWO,
        RESIDUAL,
        id="networks of each element, of combinations",
    ),
    pytest.param({"kind": "linear", "per_type": True}, TWO, RESIDUAL, id="line of each element"),
    pytest.param(ROOT, ALONE, {"hidden_irreps": "20x0e"}, id="lines and square roots"),
    pytest.param(ROOT | {"per_type": True}, MANY, {}, id="the same of each element"),
    pytest.param(KAN | {"basis": "fourier"}, TWO, RESIDUAL, id="offsets of the types"),
    pytest.param(KAN | {"sites": "all"}, TWO, {}, id="radial functions"),
    pytest.param(
        KAN | {"sites": "radial", "basis": "bspline", "hidden": [3], "grid_range": [-0.5, 0.5]},
        MANY,
        DENSITY,
        id="radial networks beyond their grids",
    ),
    pytest.param(KAN, TWO, {"distance_transform": "Agnesi"}, id="distances by element"),
    pytest.param(KAN, TWO, {"pair_repulsion": True}, id="repulsion"),
    pytest.param(KAN, ALONE, {"hidden_irreps": "20x0e+20x1o"}, id="more than a line of channels"),
    pytest.param({"kind": "mlp"}, ALONE, {"max_ell": 4, "correlation": 1}, id="degree four"),
    pytest.param({"kind": "linear"}, ALONE, {"max_ell": 1, "correlation": 3}, id="degree one"),
    pytest.param(KAN, MANY, {}, id="maps of each element"),
    pytest.param(KAN, MANY, RESIDUAL | {"hidden_irreps": "20x0e"}, id="one map for all elements"),
    pytest.param(KAN, TWO, DENSITY, id="densities"),
    pytest.param(KAN, MANY, DENSITY_RESIDUAL, id="densities, many elements"),
    pytest.param(KAN, TWO, DENSITY | {"apply_cutoff": False}, id="densities cut off apart"),
]
LEFT_TO_OTHERS = [
    pytest.param({"correlation": 4, "max_ell": 1}, "correlation up to 3", id="products of four"),
    pytest.param({"gate": "tanh", "readout": {"kind": "mlp"}}, "readout", id="activation"),
    pytest.param({"max_ell": 5, "correlation": 1}, "l_max 5, above 4", id="degree five"),
]


def build(readout, type_names, keywords, dtype="float64"):
    usual = {"hidden_irreps": "5x0e", "radial_MLP": (8,), "max_ell": 3, "correlation": 3}
    return build_model(
        "mace",
        seed=1,
        model_dtype=dtype,
        type_names=type_names,
        r_max=R_MAX,
        readout=readout,
        avg_num_neighbors=10.0,
        **{"num_interactions": 1} | usual | keywords,
    )


def graph(type_names):
    atoms = ase.build.bulk("C", "diamond", 3.57, cubic=True)
    atoms.rattle(0.08, seed=3)
    atoms.symbols = [type_names[i % len(type_names)] for i in range(len(atoms))]
    return graph_of(atoms, R_MAX, type_names)


def context(type_names, **changes):
    usual = PassContext(
        static_shapes=False,
        num_types=len(type_names),
        r_max=R_MAX,
        bound=1e-9,
        graphs=(),
        operators="fused",
    )
    return replace(usual, **changes)


def rewrite(model, type_names, **changes):
    chosen = context(type_names, **changes)
    assert FusedLocalMACE().applies_to(model, chosen)
    report = FusedLocalMACE().apply(model, chosen)
    return compile_torchscript(make_edge_model(model)), report


@pytest.mark.parametrize(("readout", "type_names", "keywords"), CASES)
def test_operator_is_the_eager_model(operators, readout, type_names, keywords):
    """Ghosts, atoms without edges and no edges at all among the graphs."""
    with nequip_settings():
        model = build(readout, type_names, keywords)
        eager = make_edge_model(copy.deepcopy(model))
        exact, report = rewrite(model, type_names)
        found = deviation(exact, eager, [graph(type_names)])
    assert 0 < report["bound"] <= 1e-9
    assert found.energy < 1e-9
    assert found.force < 1e-8
    assert found.virial < 1e-8


def test_tables_belong_to_ordered_pairs_of_elements(operators):
    """Exchanging the elements changes the energy."""
    with nequip_settings():
        model, report = rewrite(build(KAN, TWO, {}), TWO)
    vectors, index, types, num_local = graph(TWO)
    first, _ = model(vectors, index, types, num_local)
    second, _ = model(vectors, index, 1 - types, num_local)
    assert report["intervals"] > 32
    assert abs(first.sum() - second.sum()) > 1e-4


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_numbers_do_not_depend_on_the_threads(operators, threads):
    """Centres of very different numbers of edges, in batches that cut them anywhere."""
    with nequip_settings():
        model, _ = rewrite(build(KAN, TWO, {}), TWO)
    vectors, index, types = random_graph(60, 700, length=R_MAX)
    inputs = (vectors, index, types, torch.tensor([60]))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = model(*inputs)
        torch.set_num_threads(threads)
        found = model(*inputs)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("keywords", "reason"), LEFT_TO_OTHERS)
def test_what_keeps_a_local_model_from_its_operator_is_said(operators, keywords, reason):
    readout = keywords.get("readout", KAN)
    keywords = {key: value for key, value in keywords.items() if key != "readout"}
    with nequip_settings():
        model = build(readout, ALONE, keywords)
        parts = list(model.model.func.children())
        report = FusedLocalMACE().apply(model, context(ALONE))
    assert reason in report["skipped"]
    assert list(model.model.func.children()) == parts  # for other passes, as it was


def test_deeper_models_are_left_to_other_passes(operators):
    with nequip_settings():
        model = build(KAN, ALONE, {"num_interactions": 2})
        assert not FusedLocalMACE().applies_to(model, context(ALONE))


def test_default_passes_choose_this_one(operators):
    with nequip_settings():
        model = build(KAN, ALONE, {}, dtype="float32")
        reports = run_passes(model, choose_passes("default"), context(ALONE, bound=1e-6))
    assert list(reports) == ["fused_local_mace"]
    assert reports["fused_local_mace"]["operator"] == "kan_md::local_mace"


@pytest.mark.parametrize("elements", [["O", "Si"], ["H", "C", "N", "O", "Si"]], ids="-".join)
def test_one_layer_of_mace_torch_runs_on_it(operators, mace_torch_model, tmp_path, elements):
    """Converted and deployed, it says what mace-torch's own model says."""
    numbers = [atomic_numbers[name] for name in elements]
    original = mace_torch_model(numbers, num_interactions=1)
    torch.save(original, tmp_path / "one.model")
    atoms = random_structures(elements, 1, rng=np.random.default_rng(7))[0]
    checkpoint = convert_mace(tmp_path / "one.model", trust=True, structures=[atoms]).checkpoint
    save_checkpoint(checkpoint, tmp_path / "one.pth")
    deployed = load_deployed(
        deploy(tmp_path / "one.pth", tmp_path / "one.d.pth", operators="fused", bound=1e-9)
    )
    assert list(deployed.manifest.passes) == ["fused_local_mace"]
    energy, _ = deployed(*graph_of(atoms, checkpoint.r_max, checkpoint.type_names))
    expected = float(original(_mace_input(original, atoms))["energy"].detach())
    assert float(energy.sum()) == pytest.approx(expected, abs=1e-7)
