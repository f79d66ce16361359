"""The fast form is upstream's model: values, derivatives, all parameters' gradients, in float64."""

import contextlib
import itertools

import pytest
import torch
from forms_support import R_MAX, TYPES, ZBL, assert_same, cells, make_batch, results

from kan_md.backbones.build import build_model
from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.errors import KanMdError
from kan_md.forms.allegro import PARTS, EdgeListAllegro
from kan_md.forms.choice import Form, with_fixed_weights
from kan_md.ops import is_built, operators_in_layers

SIZES = {
    "num_layers": 1,
    "num_scalar_features": 6,
    "num_tensor_features": 3,
    "scalar_embed_mlp_hidden_layers_width": 5,
    "allegro_mlp_hidden_layers_width": 5,
    "readout_mlp_hidden_layers_width": 4,
    "avg_num_neighbors": 12.0,
    "per_type_energy_shifts": {"Cu": -3.0, "Au": -2.0},
    "per_type_energy_scales": 1.3,
}
KANS = [
    pytest.param(
        {"l_max": l_max, "num_layers": 1 + l_max % 2, "readout": {"sites": [site], "basis": basis}},
        id=f"{site} {basis} l {l_max}",
    )
    for (site, basis), l_max in zip(
        itertools.product(
            ("output", "two_body", "latent", "all"), ("gaussian", "bspline", "fourier")
        ),
        itertools.cycle((0, 1, 2, 3, 1)),
        strict=False,
    )
]
OTHERS = [
    pytest.param({"readout": "mlp", "num_layers": 3}, id="mlp, three layers"),
    pytest.param({"readout": "linear", "l_max": 2, "parity": False}, id="linear, no parity"),
    pytest.param({"readout": {"projection": 2}, "num_layers": 2}, id="projection"),
    pytest.param({"readout": {"hidden": [3]}, "num_layers": 2}, id="two KAN layers"),
    pytest.param({"pair_potential": ZBL}, id="pair potential"),
    pytest.param({"tp_path_channel_coupling": False, "num_layers": 2}, id="shared paths"),
    pytest.param({"weight_individual_irreps": False, "l_max": 2}, id="one weight of all degrees"),
    pytest.param({"allegro_mlp_hidden_layers_depth": 0, "num_layers": 2}, id="linear latents"),
    pytest.param(
        {"allegro_mlp_nonlinearity": None, "allegro_mlp_hidden_layers_depth": 2},
        id="deep linear latents",
    ),
    pytest.param({"allegro_mlp_nonlinearity": "mish"}, id="mish"),
    pytest.param({"avg_num_neighbors": {"Cu": 12.0, "Au": 24.0}}, id="norm per type"),
    pytest.param({"per_edge_type_cutoff": {"Cu": 2.9, "Au": {"Cu": 3.1, "Au": 3.4}}}, id="cutoffs"),
    pytest.param(
        {"per_type_energy_shifts_trainable": True, "per_type_energy_scales_trainable": True},
        id="trained shifts",
    ),
    pytest.param(
        {"radial_chemical_embed": {"_target_": "allegro.nn.TwoBodySplineScalarEmbed"}},
        id="splines",
    ),
]


def make_model(dtype="float64", **changes):
    with nequip_settings():
        model = build_model(
            "allegro",
            seed=1,
            model_dtype=dtype,
            type_names=list(TYPES),
            r_max=R_MAX,
            **{"l_max": 1, **SIZES, **changes},
        )
    return model.train()


@pytest.mark.parametrize("changes", [*KANS, *OTHERS])
def test_fast_form_is_upstreams_model_with_all_gradients(changes):
    model = make_model(**changes)
    form, batch = Form(model, "fast"), make_batch(cells())
    assert form.name == "fast"
    with operators_in_layers():
        assert_same(results(form, model, batch), results(model, model, batch))


NEQUIPS = [
    pytest.param({"l_max": l_max, "parity": parity, "readout": readout}, id=f"l {l_max} {readout}")
    for l_max, parity, readout in (
        (0, True, "kan"),
        (1, True, "mlp"),
        (2, False, "kan"),
        (3, True, "linear"),
    )
] + [
    pytest.param({"pair_potential": ZBL}, id="pair potential"),
    pytest.param({"per_edge_type_cutoff": {"Cu": 2.9, "Au": {"Cu": 3.1, "Au": 3.4}}}, id="cutoffs"),
    pytest.param({"convnet_resnet": True, "num_layers": 3}, id="residual layers"),
]


def make_nequip(**changes):
    sizes = {"num_layers": 2, "num_features": 3, "radial_mlp_width": 6, "l_max": 1}
    common = {name: value for name, value in SIZES.items() if "per_type" in name or "avg" in name}
    with nequip_settings():
        return build_model(
            "nequip",
            seed=1,
            model_dtype="float64",
            type_names=list(TYPES),
            r_max=R_MAX,
            **{**common, **sizes, **changes},
        ).train()


@pytest.mark.parametrize("computed_by", ["operators", "plain torch"])
@pytest.mark.parametrize("changes", NEQUIPS)
def test_fast_form_of_nequip_is_upstreams_model_with_all_gradients(changes, computed_by):
    if computed_by == "operators" and not is_built():
        pytest.skip("needs the operators: kan-md build")
    model, batch = make_nequip(**changes), make_batch(cells())
    form = Form(model, "fast")
    with operators_in_layers() if computed_by == "operators" else contextlib.nullcontext():
        assert_same(results(form, model, batch), results(model, model, batch))
        alone = make_batch(cells()[1:2])
        assert_same(results(form, model, alone), results(model, model, alone))
        fixed, expected = with_fixed_weights(model.eval()), model(dict(batch))
        assert fixed is not model
        found = fixed(dict(batch))
    for key in ("total_energy", "forces", "stress"):
        torch.testing.assert_close(found[key], expected[key], rtol=1e-10, atol=1e-10, msg=key)


@pytest.mark.parametrize("frames", [slice(1, 2), slice(3, 4), slice(0, 1)], ids=str)
def test_fast_form_of_one_frame_with_and_without_edges(frames):
    model, batch = make_model(num_layers=2), make_batch(cells()[frames])
    assert_same(results(Form(model), model, batch), results(model, model, batch))


def test_fast_form_takes_edges_in_any_order():
    model, batch = make_model(num_layers=2), make_batch(cells())
    expected = results(model, model, batch)
    order = torch.randperm(batch["edge_index"].shape[1], generator=torch.Generator().manual_seed(0))
    shuffled = batch | {
        "edge_index": batch["edge_index"][:, order],
        "edge_cell_shift": batch["edge_cell_shift"][order],
    }
    assert_same(results(Form(model), model, shuffled), expected)


@pytest.mark.parametrize("sites", ["output", "all"])
def test_products_are_made_where_the_weights_are(sites):
    model = make_model(num_layers=2, readout={"sites": [sites]}).to("meta")
    parts = dict(model.model.func.named_children())
    factored = EdgeListAllegro({name: parts[name] for name in PARTS}, layout="environments")
    assert {tensor.device.type for tensor in factored.buffers()} == {"meta"}


def test_fast_form_follows_the_parameters_and_owns_none():
    model, batch = make_model(), make_batch(cells()[:1])
    form, names = Form(model), set(model.state_dict())
    before = form(dict(batch))["total_energy"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    after = form(dict(batch))["total_energy"]
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, model(dict(batch))["total_energy"], rtol=1e-12, atol=1e-12)
    assert set(model.state_dict()) == names


@pytest.mark.parametrize("changes", [{}, {"readout": "linear", "pair_potential": ZBL}], ids=str)
def test_model_with_fixed_weights_is_the_same_function(changes):
    model, batch = make_model(num_layers=2, **changes).eval(), make_batch(cells())
    expected, fixed = model(dict(batch)), with_fixed_weights(model)
    assert fixed is not model
    found = fixed(dict(batch))
    for key in ("total_energy", "atomic_energy", "forces", "stress"):
        torch.testing.assert_close(found[key], expected[key], rtol=1e-10, atol=1e-10, msg=key)


def test_forces_of_the_fast_form_carry_no_graph_in_evaluation():
    model, batch = make_model(), make_batch(cells()[:1])
    form = Form(model)
    assert form(dict(batch))["forces"].requires_grad
    model.eval()
    assert not form(dict(batch))["forces"].requires_grad


def test_fast_form_in_float32_is_as_close_to_float64_as_upstreams():
    exact, single = make_model(num_layers=2, l_max=2), make_model("float32", num_layers=2, l_max=2)
    single.load_state_dict({k: v.float() for k, v in exact.state_dict().items()}, strict=False)
    batch = make_batch(cells())
    expected = exact(dict(batch))["forces"]
    errors = [
        float((call(dict(batch))["forces"] - expected).detach().abs().max())
        for call in (Form(single), single)
    ]
    assert errors[0] < 3 * errors[1] + 1e-7


def test_watched_layers_are_called_with_all_that_they_see():
    model, batch = make_model(), make_batch(cells()[:1])
    layer = next(m for name, m in model.named_modules() if name.endswith("layers.0"))
    seen = []
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    form = Form(model)
    form(dict(batch))
    assert seen == [(batch["edge_index"].shape[1], layer.in_features)]
    handle.remove()
    form(dict(batch))
    assert len(seen) == 1


def test_model_without_a_fast_form_is_told_and_left_alone():
    model = make_model()
    model.model.func.edge_readout.mlp_module = torch.nn.Linear(12, 1)
    form = Form(model)
    assert str(form) == "upstream: its readout is no perceptron without bias and no KAN"
    with pytest.raises(
        KanMdError, match=r"no fast form .* its readout .* leave training\.form out"
    ):
        Form(model, "fast")
    with pytest.raises(KanMdError, match=r"training\.form, got quick; allowed: auto, fast"):
        Form(model, "quick")
    assert Form(model, "upstream").reason == "as asked for"
