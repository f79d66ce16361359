"""Collapsed KANs on the operator are the same functions."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.model.checkpoint import load_checkpoint
from kan_md.tasks.potential_deviation import deviation
from kan_md.tasks.potential_function import make_edge_model
from kan_md_deploy.judged_graphs import reference_graphs
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.kan_collapse import KANCollapse
from kan_md_deploy.passes.registry import choose_passes, run_passes
from kan_md_deploy.passes.tables.piecewise_sum import FusedPiecewiseSum
from kan_md_deploy.torchscript import compile_torchscript

BASES = pytest.mark.parametrize("basis", ["gaussian", "bspline", "fourier"])


def prepare(path, dtype, bound, operators="fused"):
    checkpoint = load_checkpoint(path)
    graphs = reference_graphs(checkpoint)[:2]
    context = PassContext(
        static_shapes=False,
        num_types=1,
        r_max=checkpoint.r_max,
        bound=bound,
        graphs=tuple(graphs),
        operators=operators,
    )
    return checkpoint.build("float64"), checkpoint.build(dtype), graphs, context


@BASES
def test_fused_kan_is_the_collapsed_one(operators, tiny_checkpoint, basis):
    path = tiny_checkpoint("allegro", readout={"basis": basis})
    with nequip_settings():
        _, model, graphs, context = prepare(path, "float64", 1e-6)
        plain = copy.deepcopy(model)
        report = KANCollapse().apply(model, context)
        assert report.pop("operator") == "kan_md::piecewise_sum"
        portable = replace(context, operators="portable")
        assert KANCollapse().apply(plain, portable).keys() == report.keys()
        found = deviation(make_edge_model(model), make_edge_model(plain), graphs)
    assert sum(isinstance(module, FusedPiecewiseSum) for module in model.modules()) == 1
    assert found.energy < 1e-13
    assert found.force < 1e-12
    assert found.virial < 1e-12


@BASES
def test_float32_file_is_within_its_tolerance(operators, tiny_checkpoint, basis):
    path = tiny_checkpoint("allegro", readout={"basis": basis})
    with nequip_settings():
        eager, model, graphs, context = prepare(path, "float32", 1e-6)
        reports = run_passes(model, choose_passes("kan_collapse"), context)
        assert list(reports) == ["kan_collapse"]
        scripted = compile_torchscript(make_edge_model(model))
        found = deviation(scripted, make_edge_model(eager), graphs)
    assert found.force < 1e-5


def test_zero_features_give_exactly_nothing(operators, tiny_checkpoint):
    path = tiny_checkpoint("allegro", readout={"basis": "gaussian"})
    with nequip_settings():
        _, model, _, context = prepare(path, "float32", 1e-6)
        run_passes(model, choose_passes("kan_collapse"), context)
    (fused,) = (module for module in model.modules() if isinstance(module, FusedPiecewiseSum))
    zero = torch.zeros(3, fused.inverse_step.numel())
    assert torch.equal(fused(zero), torch.zeros(3, 1))


def test_portable_files_do_without(operators, tiny_checkpoint):
    path = tiny_checkpoint("allegro", readout={"basis": "gaussian"})
    with nequip_settings():
        _, model, _, context = prepare(path, "float32", 1e-6, operators="portable")
        reports = run_passes(model, choose_passes("default"), context)
    assert not any("operator" in report for report in reports.values())
