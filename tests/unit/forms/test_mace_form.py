"""MACE's training form is upstream's blocks: values, derivatives, all gradients, in float64."""

import contextlib

import pytest
import torch
from forms_support import R_MAX, TYPES, assert_same, cells, make_batch, results

from kan_md.backbones.build import build_model
from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.forms.choice import Form, with_fixed_weights
from kan_md.ops import is_built, operators_in_layers

SIZES = {
    "hidden_irreps": "4x0e",
    "num_interactions": 1,
    "radial_MLP": [5, 6],
    "avg_num_neighbors": 12.0,
    "per_type_energy_shifts": {"Cu": -3.0, "Au": -2.0},
    "per_type_energy_scales": 1.3,
}
DENSITY = "RealAgnosticDensityInteractionBlock"
DENSITY_RESIDUAL = "RealAgnosticDensityResidualInteractionBlock"
TWO = {"num_interactions": 2, "hidden_irreps": "3x0e + 3x1o"}
MODELS = [
    pytest.param({}, id="one layer"),
    pytest.param({"max_ell": 1, "correlation": 1}, id="one layer, l 1, correlation 1"),
    pytest.param(
        {
            "max_ell": 2,
            "correlation": 2,
            "interaction_cls_first": "RealAgnosticResidualInteractionBlock",
            "pair_repulsion": True,
            "readout": "linear",
        },
        id="one layer, residual, repulsion, l 2, correlation 2",
    ),
    pytest.param(
        {"interaction_cls_first": DENSITY, "apply_cutoff": False, "distance_transform": "Agnesi"},
        id="one layer, density, weights cut off, distances transformed",
    ),
    pytest.param(
        {"type_names": [*TYPES, "Ag", "Ni", "Pd"], "per_type_energy_shifts": None},
        id="one layer, five types",
    ),
    pytest.param(
        {"radial_type": "gaussian", "apply_cutoff": False, "num_bessel": 5},
        id="one layer, Gaussian radial functions, weights cut off",
    ),
    pytest.param({"readout": {"sites": "all", "num_basis": 5}}, id="one layer, radial KAN"),
    pytest.param(
        {"readout": {"sites": "radial", "basis": "bspline", "hidden": [3], "grid_range": [-1, 1]}},
        id="one layer, radial KAN of two layers, beyond its grids",
    ),
    pytest.param(
        {"readout": {"kind": "mlp", "sites": "radial", "hidden": [7, 3]}},
        id="one layer, radial MLP of the readout",
    ),
    pytest.param({"readout": {"kind": "linear", "sites": "radial"}}, id="one layer, radial line"),
    pytest.param(
        {**TWO, "readout": {"sites": "all", "basis": "fourier", "num_basis": 4, "projection": 3}},
        id="two layers, radial KAN of combinations",
    ),
    pytest.param(TWO, id="two layers"),
    pytest.param(
        {
            "num_interactions": 3,
            "hidden_irreps": "3x0e + 3x1o + 3x2e",
            "max_ell": 2,
            "correlation": 2,
            "interaction_cls_first": DENSITY_RESIDUAL,
            "interaction_cls": DENSITY_RESIDUAL,
            "apply_cutoff": False,
        },
        id="three layers, densities",
    ),
    pytest.param(
        {
            **TWO,
            "interaction_cls": "RealAgnosticInteractionBlock",
            "use_agnostic_product": True,
            "keep_last_layer_irreps": True,
            "readout": "mlp",
        },
        id="two layers, one product basis for all elements",
    ),
    pytest.param(
        {
            **TWO,
            "edge_irreps": "2x0e + 2x1o",
            "use_reduced_cg": False,
            "use_last_readout_only": True,
            "correlation": [2, 3],
        },
        id="two layers, fewer features on edges",
    ),
]


def make_mace(**changes):
    with nequip_settings():
        return build_model(
            "mace",
            seed=1,
            model_dtype="float64",
            r_max=R_MAX,
            **{"type_names": list(TYPES), "max_ell": 3, "correlation": 3, **SIZES, **changes},
        ).train()


@pytest.fixture(scope="module", params=MODELS)
def mace(request):
    return make_mace(**request.param)


@pytest.mark.parametrize("computed_by", ["operators", "plain torch"])
def test_form_is_upstreams_model_with_all_gradients(mace, computed_by):
    if computed_by == "operators" and not is_built():
        pytest.skip("needs the operators: kan-md build")
    form, frames = Form(mace, "fast"), cells()
    with operators_in_layers() if computed_by == "operators" else contextlib.nullcontext():
        for batch in (make_batch(frames), make_batch(frames[1:2]), make_batch(frames[3:])):
            assert_same(results(form, mace, batch), results(mace, mace, batch))


@pytest.mark.parametrize(
    ("computed_by", "sizes"),
    [
        ("operators", TWO),
        ("plain torch", TWO),
        ("operators", {"distance_transform": "Soft", "apply_cutoff": False}),
        ("operators", {"readout": {"sites": "radial", "num_basis": 6}}),
    ],
)
def test_second_derivatives_by_positions_are_upstreams(computed_by, sizes):
    if computed_by == "operators" and not is_built():
        pytest.skip("needs the operators: kan-md build")
    model, found = make_mace(**sizes), []
    with operators_in_layers() if computed_by == "operators" else contextlib.nullcontext():
        for call in (Form(model, "fast"), model):
            batch = make_batch(cells()[:1])
            positions = batch["pos"].requires_grad_()
            out = call(dict(batch))
            found.append(torch.autograd.grad(out["forces"][1, 0], positions)[0])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def test_model_with_fixed_weights_is_the_same_function():
    model, batch = make_mace(**TWO).eval(), make_batch(cells())
    expected, fixed = model(dict(batch)), with_fixed_weights(model)
    assert fixed is not model
    found = fixed(dict(batch))
    for key in ("total_energy", "atomic_energy", "forces", "stress"):
        torch.testing.assert_close(found[key], expected[key], rtol=1e-10, atol=1e-10, msg=key)


def test_edges_without_counterpart_are_taken_as_they_are():
    model, batch = make_mace(), make_batch(cells()[:1])
    some = torch.arange(batch["edge_index"].shape[1]) % 5 > 0
    batch["edge_index"] = batch["edge_index"][:, some]
    batch["edge_cell_shift"] = batch["edge_cell_shift"][some]
    assert_same(results(Form(model), model, batch), results(model, model, batch))


def test_fifty_steps_of_both_forms_have_the_same_losses():
    batch, losses = make_batch(cells()[:2]), []
    for wanted in ("fast", "upstream"):
        model = make_mace(max_ell=2, readout={"basis": "bspline"})
        form, losses_of_form = Form(model, wanted), []
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(50):
            optimizer.zero_grad()
            out = form(dict(batch))
            target = torch.linspace(-0.1, 0.1, out["forces"].numel(), dtype=torch.float64)
            loss = (out["forces"].flatten() - target).square().mean() + out["stress"].square().sum()
            loss = loss + (out["total_energy"] + 8.0).square().mean()
            loss.backward()
            optimizer.step()
            losses_of_form.append(loss.item())
        losses.append(losses_of_form)
    assert losses[0][-1] < 0.8 * losses[0][0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-8)


def test_model_with_other_interactions_is_left_to_upstream():
    model = make_mace(**TWO, interaction_cls="RealAgnosticAttResidualInteractionBlock")
    assert str(Form(model)) == "upstream: its interactions are AttentionInteraction"


@pytest.mark.skipif(not is_built(), reason="needs the operators: kan-md build")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "the first layer is one expansion of each neighbourhood by an operator on a CPU"),
        ({"interaction_cls_first": DENSITY}, "no expansion, its messages are divided by densities"),
        (
            {"type_names": [f"X{n}" for n in range(9)], "per_type_energy_shifts": None},
            "no expansion, it knows more than 8 types",
        ),
    ],
)
def test_form_says_what_its_first_layer_is(changes, expected):
    assert str(Form(make_mace(**changes))).endswith(expected)
