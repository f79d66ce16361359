"""Allegro as one operator is the function that upstream's modules compute."""

from __future__ import annotations

import pytest
import torch
from ops_support import random_graph

from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.model.checkpoint import load_checkpoint
from kan_md.ops.interval_tables import IntervalTableMaker
from kan_md.tasks.potential_deviation import deviation
from kan_md.tasks.potential_function import make_edge_model
from kan_md_deploy.judged_graphs import reference_graphs
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.fused_allegro import AllegroOnOperator
from kan_md_deploy.passes.registry import choose_passes, run_passes
from kan_md_deploy.torchscript import compile_torchscript

ALLOY = {"type_names": ("Cu", "Au")}
PASSES = "centre_factored,fused_allegro"
MLP = {"readout": {"kind": "mlp"}}


def zbl(*species):
    """Upstream's short-range repulsion."""
    target = "nequip.nn.pair_potential.ZBL"
    return {"pair_potential": {"_target_": target, "units": "metal", "chemical_species": species}}


def rewrite(path, *, dtype="float64", bound=1e-7, passes=PASSES, operators="fused"):
    """The eager float64 model, the rewritten one, frames, and the passes' reports."""
    checkpoint = load_checkpoint(path)
    graphs = reference_graphs(checkpoint)[:2]
    with nequip_settings():
        eager, model = checkpoint.build("float64"), checkpoint.build(dtype)
        context = PassContext(
            static_shapes=False,
            num_types=len(checkpoint.type_names),
            r_max=checkpoint.r_max,
            bound=bound,
            graphs=tuple(graphs),
            operators=operators,
        )
        reports = run_passes(model, choose_passes(passes), context)
    return make_edge_model(eager), make_edge_model(model), graphs, reports


@pytest.mark.parametrize(
    "keywords",
    [
        pytest.param({"readout": {"kind": "linear"}}, id="linear"),
        pytest.param(MLP, id="mlp"),
        pytest.param({"readout": {"kind": "mlp", "hidden": [20, 5]}}, id="deep mlp"),
        pytest.param(MLP | ALLOY | {"l_max": 3, "num_layers": 2}, id="two elements, l = 3"),
        pytest.param(MLP | {"num_layers": 3, "l_max": 2}, id="three layers"),
        pytest.param(MLP | {"l_max": 0}, id="scalars only"),
        pytest.param(
            MLP | ALLOY | {"num_layers": 2, "allegro_mlp_hidden_layers_depth": 3}, id="deep latents"
        ),
        pytest.param(
            MLP | {"num_tensor_features": 5, "allegro_mlp_hidden_layers_width": 33}, id="odd widths"
        ),
        pytest.param(MLP | {"tp_path_channel_coupling": False, "parity": False}, id="shared paths"),
        pytest.param(MLP | ALLOY | zbl("Cu", "Au"), id="pair potential"),
        pytest.param(
            MLP | ALLOY | zbl("Cu", "Au") | {"per_edge_type_cutoff": {"Cu": 3.5}},
            id="pair potential, cutoffs by pair",
        ),
        pytest.param(
            MLP | ALLOY | {"avg_num_neighbors": {"Cu": 12.0, "Au": 24.0}}, id="norm per element"
        ),
    ],
)
def test_fused_allegro_is_the_eager_one(operators, tiny_checkpoint, keywords):
    eager, fused, graphs, reports = rewrite(tiny_checkpoint("allegro", **keywords))
    assert reports["fused_allegro"]["bound"] <= 1e-7
    found = deviation(fused, eager, graphs)
    assert found.energy < 1e-7
    assert found.force < 1e-6
    assert found.virial < 1e-6


# Of basis, projection and number of layers every pair of values is there.
@pytest.mark.parametrize(
    ("basis", "projection", "num_layers"),
    [
        ("gaussian", None, 1),
        ("gaussian", 3, 2),
        ("bspline", None, 2),
        ("bspline", 3, 1),
        ("fourier", None, 1),
        ("fourier", 3, 2),
    ],
)
def test_fused_kan_readout_is_the_eager_one(
    operators, tiny_checkpoint, basis, projection, num_layers
):
    readout = {"basis": basis, "projection": projection}
    path = tiny_checkpoint("allegro", readout=readout, num_layers=num_layers, **ALLOY)
    eager, fused, graphs, reports = rewrite(path, bound=1e-6)
    assert "fused_allegro" in reports
    found = deviation(fused, eager, graphs)
    assert found.force < 2e-5
    assert found.virial < 2e-5


@pytest.mark.parametrize(("basis", "projection"), [("gaussian", None), ("bspline", 3)])
def test_kans_on_narrow_grids_stay_on_the_operator_with_their_silu(
    operators, tiny_checkpoint, basis, projection
):
    """SiLU bends over two thousand steps of such a grid."""
    readout = {"basis": basis, "projection": projection, "grid_range": [-0.03, 0.04]}
    path = tiny_checkpoint("allegro", readout=readout, num_layers=2, **ALLOY)
    eager, fused, graphs, reports = rewrite(path, bound=1e-6)
    assert "operator" in reports["fused_allegro"]
    found = deviation(fused, eager, graphs)
    assert found.force < 2e-5
    assert found.virial < 2e-5


# Every basis and projection with every network.
@pytest.mark.parametrize(
    ("hidden", "sites", "num_layers", "basis", "projection"),
    [
        pytest.param([5], ["output"], 1, "gaussian", 3, id="two layers"),
        pytest.param([5], ["output"], 1, "fourier", None, id="two layers, fourier"),
        pytest.param([5], ["output"], 3, "bspline", None, id="two layers, deep model"),
        pytest.param([20, 3], ["output"], 2, "gaussian", None, id="three layers"),
        pytest.param([20, 3], ["output"], 2, "bspline", 3, id="three layers, projected"),
        pytest.param([4], ["all"], 2, "fourier", 3, id="KANs everywhere, projected"),
        pytest.param([4], ["all"], 2, "bspline", None, id="KANs everywhere"),
    ],
)
def test_fused_readout_of_several_kan_layers_is_the_eager_one(
    operators, tiny_checkpoint, basis, projection, hidden, sites, num_layers
):
    readout = {
        "basis": basis,
        "projection": projection,
        "hidden": hidden,
        "sites": sites,
        "num_basis": 6,
    }
    path = tiny_checkpoint("allegro", readout=readout, num_layers=num_layers, **ALLOY)
    eager, fused, graphs, reports = rewrite(path, bound=1e-6)
    assert "operator" in reports["fused_allegro"]
    found = deviation(fused, eager, graphs)
    assert found.force < 2e-5
    assert found.virial < 2e-5


@pytest.mark.parametrize(
    ("basis", "sites"),
    [
        *((basis, "latent") for basis in ("gaussian", "bspline", "fourier")),
        ("bspline", "two_body"),
        ("fourier", "two_body"),
        ("gaussian", "all"),
    ],
)
def test_fused_kans_elsewhere_are_the_eager_ones(operators, tiny_checkpoint, basis, sites):
    readout = {"basis": basis, "sites": sites, "num_basis": 6}
    path = tiny_checkpoint("allegro", readout=readout, num_layers=2)
    eager, fused, graphs, reports = rewrite(path, bound=1e-6)
    assert "operator" in reports["fused_allegro"]
    found = deviation(fused, eager, graphs)
    assert found.force < 1e-5
    assert found.virial < 1e-5


@pytest.mark.parametrize(
    "keywords",
    [
        pytest.param({"num_layers": 3, "readout": {}}, id="three layers read each other"),
        pytest.param({"num_layers": 1, "readout": {"order": 1, "basis": "bspline"}}, id="order 1"),
        pytest.param({"num_layers": 1, "readout": {"order": 5, "basis": "bspline"}}, id="order 5"),
        pytest.param({"readout": {"num_basis": 21, "sites": ["latent"]}}, id="many Gaussians"),
        pytest.param({"readout": {"base": "none", "input_gain": "none"}}, id="no SiLU, no gain"),
        pytest.param({"readout": {"projection": 3}, "num_layers": 2}, id="projected"),
        pytest.param(
            {"num_scalar_features": 10, "num_tensor_features": 5, "num_layers": 2, "readout": {}},
            id="odd widths",
        ),
        pytest.param(
            {"num_layers": 2, "readout": {"hidden": [5], "sites": ["two_body", "latent"]}},
            id="two KAN layers",
        ),
        pytest.param(
            {"num_layers": 2, "readout": {"hidden": [5, 4], "projection": 3, "sites": ["latent"]}},
            id="three KAN layers, projected",
        ),
    ],
)
def test_fused_kans_of_any_shape_are_the_eager_ones(operators, tiny_checkpoint, keywords):
    readout = {"sites": ["all"], "num_basis": 6, **keywords["readout"]}
    path = tiny_checkpoint("allegro", **keywords | {"readout": readout})
    eager, fused, graphs, reports = rewrite(path, bound=1e-6)
    assert "operator" in reports["fused_allegro"]
    found = deviation(fused, eager, graphs)
    assert found.force < 1e-5
    assert found.virial < 1e-5


def test_gradient_of_fused_kans_is_that_of_eager_autograd(operators, tiny_checkpoint):
    """A graph that no structure gives: types at random, any lengths, many edges and none."""
    path = tiny_checkpoint("allegro", readout={"sites": ["all"]}, num_layers=2, **ALLOY)
    eager, fused, _, _ = rewrite(path, bound=1e-6)
    graph = random_graph(3, 200, length=4.5)
    assert torch.bincount(graph.edge_index[0]).max() > 48  # kEdgesTogether in kan_rows.h
    types = torch.cat([graph.atom_types, torch.tensor([1, 0])])
    expected = eager(graph.edge_vectors, graph.edge_index, types, torch.tensor([5]))
    found = fused(graph.edge_vectors, graph.edge_index, types, torch.tensor([5]))
    for value, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(value, exact, rtol=0, atol=1e-6 * exact.abs().max().item())


def test_bound_of_kans_in_float64_is_kept(operators, tiny_checkpoint):
    readout = {"sites": ["two_body", "latent"], "num_basis": 5}
    path = tiny_checkpoint("allegro", readout=readout)
    eager, fused, graphs, reports = rewrite(path, bound=1e-9)
    assert reports["fused_allegro"]["slope_bound"] <= 1e-9
    assert deviation(fused, eager, graphs).force < 1e-8


@pytest.mark.parametrize("basis", ["gaussian", "bspline", "fourier"])
def test_edge_at_the_cutoff_gives_nothing_to_any_kan(operators, tiny_checkpoint, basis):
    readout = {"basis": basis, "sites": ["all"], "num_basis": 6}
    path = tiny_checkpoint("allegro", readout=readout, num_layers=2)
    _, fused, graphs, _ = rewrite(path, bound=1e-4)
    vectors, index, types, num_local = graphs[0]
    # bit for bit: the new edge's own energy is an exact zero, and what it adds to others is
    edge = torch.tensor([[0.0, 4.0, 0.0]], dtype=torch.float64)
    found = fused(
        torch.cat([edge, vectors]),
        torch.cat([torch.tensor([[0], [1]]), index], 1),
        types,
        num_local,
    )
    alone = fused(edge, torch.tensor([[0], [1]]), types[:2], torch.tensor([2]))
    nothing = fused(edge[:0], index[:, :0], types[:2], torch.tensor([2]))
    assert torch.equal(alone[0], nothing[0])
    assert torch.equal(found[1][:1], torch.zeros(1, 3, dtype=torch.float64))
    torch.testing.assert_close(
        found[0], fused(vectors, index, types, num_local)[0], rtol=0, atol=1e-13
    )


@pytest.mark.parametrize(
    "readout",
    [
        {"projection": 4},
        {"sites": ["latent"], "basis": "bspline"},
        {"sites": ["latent"], "basis": "fourier"},
    ],
)
def test_float32_file_is_within_its_tolerance(operators, tiny_checkpoint, readout):
    path = tiny_checkpoint("allegro", num_layers=2, l_max=2, readout=readout)
    eager, fused, graphs, _ = rewrite(path, dtype="float32", bound=1e-6)
    assert deviation(compile_torchscript(fused), eager, graphs).force < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tracers_see_what_the_operator_does(operators, tiny_checkpoint, dtype):
    _, fused, graphs, _ = rewrite(tiny_checkpoint("allegro", **MLP), dtype=dtype)
    (module,) = (part for part in fused.modules() if isinstance(part, AllegroOnOperator))
    vectors, index, types, _ = graphs[0]
    weights = [constant() for constant in module.weights]
    args = (vectors.detach().requires_grad_(True), index, types.view(-1), weights, module.shape)
    torch.library.opcheck(operators.allegro.default, args)


def test_weights_of_another_shape_are_refused(operators, tiny_checkpoint):
    _, fused, graphs, _ = rewrite(tiny_checkpoint("allegro", **MLP))
    (module,) = (m for m in fused.modules() if isinstance(m, AllegroOnOperator))
    weights = [constant.value for constant in module.weights]
    vectors, index, types, _ = graphs[0]
    with pytest.raises(RuntimeError, match=r"kan_md::allegro: weight \d+ must be a contiguous"):
        operators.allegro(vectors, index, types, [*weights[:-1], weights[-1].t()], module.shape)
    with pytest.raises(RuntimeError, match="kan_md::allegro: too few weights"):
        operators.allegro(vectors, index, types, weights[:-1], module.shape)
    with pytest.raises(RuntimeError, match="shape and weights do not belong together"):
        operators.allegro(vectors, index, types, [*weights, weights[0]], module.shape)
    rows, ends, cells, *others = weights
    with pytest.raises(RuntimeError, match="a cell names an interval that is not there"):
        operators.allegro(
            vectors, index, types, [rows, ends, cells + rows.size(1), *others], module.shape
        )
    with pytest.raises(RuntimeError, match="sorted by centre"):
        operators.allegro(vectors, index.flip(1), types, weights, module.shape)


@pytest.mark.parametrize(
    "keywords",
    [
        pytest.param({"allegro_mlp_hidden_layers_depth": 0}, id="linear latents"),
    ],
)
def test_what_the_operator_does_not_know_goes_the_plain_way(operators, tiny_checkpoint, keywords):
    eager, rewritten, graphs, reports = rewrite(
        tiny_checkpoint("allegro", **keywords), passes="default", bound=1e-6
    )
    assert "centre_factored" in reports
    assert "fused_allegro" not in reports
    assert deviation(rewritten, eager, graphs).force < 2e-5


def with_intervals(monkeypatch, most):
    monkeypatch.setitem(IntervalTableMaker.__init__.__kwdefaults__, "most_intervals", most)


def test_readout_with_too_many_kinks_keeps_its_inputs(operators, tiny_checkpoint, monkeypatch):
    readout = {"basis": "bspline", "num_basis": 40}
    with_intervals(monkeypatch, 300)
    eager, fused, graphs, reports = rewrite(tiny_checkpoint("allegro", readout=readout), bound=1e-6)
    assert reports["fused_allegro"]["intervals"] < 300
    assert deviation(fused, eager, graphs).force < 2e-5


def test_latent_kan_with_too_many_kinks_goes_the_plain_way(operators, tiny_checkpoint, monkeypatch):
    readout = {"basis": "bspline", "num_basis": 40, "sites": ["latent"]}
    with_intervals(monkeypatch, 300)
    eager, rewritten, graphs, reports = rewrite(
        tiny_checkpoint("allegro", readout=readout), passes="default", bound=1e-6
    )
    assert reports["fused_allegro"]["skipped"].startswith("intervals of a radial table, got")
    assert deviation(rewritten, eager, graphs).force < 2e-5


def test_portable_file_does_without(operators, tiny_checkpoint):
    *_, reports = rewrite(tiny_checkpoint("allegro"), passes="default", operators="portable")
    assert list(reports) == ["centre_factored", "radial_tables", "kan_collapse"]
