"""Every key of the readout changes the model of every backbone, or is refused by its name."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms

from kan_md.backbones.build import build_model, idle_hyperparameters, upstream_names
from kan_md.backbones.readout import ReadoutConfig, parse_readout, without_idle_keys
from kan_md.backbones.readout_report import describe_readouts, readout_lines
from kan_md.errors import KanMdError
from kan_md.model.reference import model_input

MACE = {"hidden_irreps": "6x0e", "max_ell": 1, "correlation": 1, "radial_MLP": [4]}
COMMON = {
    "seed": 3,
    "model_dtype": "float64",
    "type_names": ["Cu", "Au"],
    "r_max": 3.0,
    "avg_num_neighbors": 4.0,
}
MODELS = {
    "allegro": (
        "allegro",
        {"l_max": 1, "num_layers": 1, "num_scalar_features": 6, "num_tensor_features": 2},
    ),
    "nequip": ("nequip", {"l_max": 1, "num_layers": 2, "num_features": 6, "radial_mlp_width": 4}),
    "mace": ("mace", {**MACE, "num_interactions": 2}),
    "one-layer mace": ("mace", {**MACE, "num_interactions": 1}),
    "etgnn": ("etgnn", {"num_layers": 1, "num_features": 6, "num_triplet_features": 5}),
}
KINDS = [
    {"kind": "kan", "basis": "gaussian"},
    {"kind": "kan", "basis": "bspline"},
    {"kind": "mlp"},
    {"kind": "mlp", "hidden": [4]},
    {"kind": "mlp", "hidden": [4, 3]},
    {"kind": "linear"},
]
CHANGES = {
    "kind": "linear",
    "basis": "fourier",
    "hidden": [7],
    "num_basis": 11,
    "order": 2,
    "grid_range": [-1.0, 3.0],
    "projection": 3,
    "base": "none",
    "input_gain": "none",
    "per_type": True,
    "nonlinearity": "tanh",
}
OF_DENSITIES = [{"kind": "finnis_sinclair"}]  # of MACE alone
SITES = {
    "allegro": ["two_body", "latent", "all"],
    "mace": ["radial", "all"],
    "etgnn": ["edge_up", "node_up", "all"],
}


@pytest.fixture(scope="module")
def build():
    """``build(name, readout)``, float64, one seed; equal calls share one model."""
    built = {}

    def build(name: str, readout: dict) -> torch.nn.Module:
        key = (name, parse_readout(readout))
        if key not in built:
            backbone, hyperparameters = MODELS[name]
            built[key] = build_model(backbone, readout=readout, **COMMON, **hyperparameters).eval()
        return built[key]

    return build


def numbers(model: torch.nn.Module, backbone: str) -> torch.Tensor:
    """What the model says of a little molecule."""
    atoms = Atoms("Cu3", [[0.0, 0.0, 0.0], [2.1, 0.2, 0.0], [0.3, 1.9, 0.4]])
    out = model(model_input(atoms, COMMON["r_max"], COMMON["type_names"]))
    return (
        out["born_effective_charges" if backbone == "etgnn" else "total_energy"].detach().flatten()
    )


def differ(one: torch.nn.Module, other: torch.nn.Module, backbone: str) -> bool:
    """Whether two models have other parameters, or say other things with weights of one seed."""
    shapes = [[(n, p.shape) for n, p in m.named_parameters()] for m in (one, other)]
    said = [numbers(model, backbone) for model in (one, other)]
    return shapes[0] != shapes[1] or float((said[0] - said[1]).abs().max()) > 1e-9


def changes_of(name: str) -> list[tuple[dict, dict]]:
    """Readouts that differ by one key."""
    backbone = MODELS[name][0]
    changes = [(key, value) for key, value in CHANGES.items()]
    of_sites = [("sites", site) for site in SITES.get(backbone, [])]
    cases = [(start, changes + of_sites) for start in KINDS]
    cases += [(start, changes) for start in OF_DENSITIES if backbone == "mace"]
    return [(start, start | {key: value}) for start, several in cases for key, value in several]


def test_no_key_is_forgotten():
    assert CHANGES.keys() | {"sites"} == ReadoutConfig.model_fields.keys()


@pytest.mark.parametrize("name", MODELS)
def test_every_key_changes_the_model_or_is_refused_by_name(build, name):
    for start, changed in changes_of(name):
        key = next((key for key in changed if changed[key] != start.get(key)), "kind")
        try:
            same = parse_readout(changed) == parse_readout(start)
            second = build(name, changed)
        except KanMdError as error:
            # What is refused is the new key, or one that the new kind or basis leaves idle.
            assert "no effect" in str(error) and "\n" not in str(error)
            assert f"readout.{key}" in str(error)
            continue
        assert same or differ(build(name, start), second, MODELS[name][0]), f"{start} and {changed}"


@pytest.mark.parametrize(
    ("readout", "said"),
    [
        (
            {"kind": "linear", "hidden": [3]},
            "readout.hidden has no effect with readout.kind linear",
        ),
        (
            {"kind": "mlp", "basis": "bspline", "grid_range": [-1, 1]},
            "readout.basis and readout.grid_range have no effect with readout.kind mlp, got basis "
            "bspline, grid_range [-1.0, 1.0]; leave them out, or set readout.kind: kan",
        ),
        ({"kind": "mlp", "hidden": [3], "num_basis": 9}, "readout.kind mlp with readout.hidden"),
        (
            {"kind": "kan", "nonlinearity": "mish"},
            "readout.nonlinearity has no effect with readout.kind kan, got nonlinearity mish; "
            "leave it out, or set readout.kind: mlp",
        ),
        ({"order": 2}, "leave it out, or set readout.basis: bspline"),
    ],
)
def test_key_in_vain_is_refused_with_the_remedy(readout, said):
    with pytest.raises(KanMdError) as error:
        parse_readout(readout)
    assert said in str(error.value)


def test_readouts_of_old_files_are_read_as_what_was_built():
    old = ReadoutConfig().model_dump(mode="json")
    old |= {"kind": "mlp", "hidden": [3], "basis": "bspline", "num_basis": 12, "sites": ["all"]}
    assert parse_readout(without_idle_keys(old)) == ReadoutConfig(
        kind="mlp", hidden=(3,), sites=("all",)
    )


@pytest.mark.parametrize("num_interactions", [1, 2])
def test_mlp_of_mace_has_the_widths_that_are_asked_for(num_interactions):
    def last(**changes: object) -> dict:
        model = build_model(
            "mace", **COMMON, **{**MACE, "num_interactions": num_interactions, **changes}
        )
        return describe_readouts(model, "mace")[-1]

    for width in (3, 16):
        entry = last(readout={"kind": "mlp", "hidden": [width]})
        assert (entry["kind"], entry["widths"]) == ("mlp", [6, width, 1])
        assert entry["parameters"] == 6 * width + width
        assert entry["place"] == f"layer {num_interactions}"
    assert last(readout="mlp", MLP_irreps="5x0e")["widths"] == [6, 5, 1]
    assert last(readout="linear")["widths"] == [6, 1]
    # As wide as comes closest to the KANs of all layers, 60 parameters each.
    assert last(readout="mlp")["widths"] == [6, round(num_interactions * 60 / 7), 1]
    assert last(readout="mlp", use_last_readout_only=True)["kind"] == "mlp"


def test_one_layer_mace_mlp_is_its_formula(build):
    model = build("one-layer mace", {"kind": "mlp", "hidden": [7]})
    block = model.model.func.readout0.block
    x = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first = block.linear_1.weight.view(6, 7) / 6**0.5
    last = block.linear_2.weight.view(7, 1) / 7**0.5
    # e3nn scales SiLU to unit second moment on a normal variable, which it estimates.
    points = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    density = torch.softmax(-0.5 * points**2, 0)
    norm = (density * torch.nn.functional.silu(points) ** 2).sum().rsqrt()
    expected = norm * torch.nn.functional.silu(x @ first) @ last
    torch.testing.assert_close(block(x), expected, rtol=5e-3, atol=1e-6)
    assert block(torch.zeros(1, 6, dtype=torch.float64)).tolist() == [[0.0]]


def test_mlp_width_is_given_once():
    with pytest.raises(KanMdError, match=r"model.MLP_irreps and readout.hidden both say how wide"):
        build_model(
            "mace", readout={"kind": "mlp", "hidden": [3]}, MLP_irreps="5x0e", **COMMON, **MACE
        )


def test_features_of_mace_have_one_multiplicity():
    with pytest.raises(KanMdError, match=r"got 6x0e\+3x1o; allowed: one multiplicity"):
        build_model("mace", **COMMON, **MACE | {"hidden_irreps": "6x0e + 3x1o"})


@pytest.mark.parametrize("name", MODELS)
def test_description_counts_what_is_there(build, name):
    backbone, _ = MODELS[name]
    model = build(name, {"kind": "kan", "basis": "gaussian"})
    found = describe_readouts(model, backbone)
    ours = [entry for entry in found if entry["made_by"] == "kan-md"]
    assert ours and all(entry["kind"] == "kan" for entry in ours)
    for entry in ours:
        inputs, outputs = entry["widths"]
        # 8 coefficients and a base weight per function, a gain per input
        assert entry["parameters"] == 9 * inputs * outputs + inputs
    total = sum(p.numel() for n, p in model.named_parameters() if "readout" in n)
    others = ("two_body", "latent", "radial", "edge_up", "node_up")
    assert sum(e["parameters"] for e in found if e["site"] not in others) == total
    assert len(readout_lines(found)) == sum(entry["site"] == "output" for entry in found)


@pytest.mark.parametrize(
    ("name", "readout", "changes"),
    [
        ("allegro", {}, {"readout_mlp_hidden_layers_width": 9, "readout_mlp_nonlinearity": "mish"}),
        (
            "allegro",
            {"sites": ["two_body", "latent"]},
            {"scalar_embed_mlp_hidden_layers_depth": 2, "allegro_mlp_hidden_layers_width": 5},
        ),
        (
            "nequip",
            {},
            {"readout_mlp_hidden_layers_depth": 1, "readout_mlp_hidden_layers_width": 9},
        ),
        ("mace", {}, {"MLP_irreps": "9x0e", "gate": "tanh"}),
        ("mace", {"kind": "linear"}, {"MLP_irreps": "9x0e"}),
    ],
)
def test_hyperparameters_in_vain_are_told(build, name, readout, changes):
    backbone, hyperparameters = MODELS[name]
    config = parse_readout(readout)
    assert idle_hyperparameters(backbone, config, {**hyperparameters, **changes}) == list(changes)
    other = build_model(backbone, readout=readout, **COMMON, **hyperparameters, **changes)
    shapes = [
        [p.shape for p in model.parameters()] for model in (build(name, readout), other.eval())
    ]
    assert shapes[0] == shapes[1]
    entries = describe_readouts(other, backbone)
    assert next(iter(changes)) in readout_lines(entries, idle=list(changes))[-1]


def test_hyperparameters_of_an_mlp_are_not_in_vain_there():
    assert not idle_hyperparameters("mace", parse_readout("mlp"), ["MLP_irreps", "gate"])
    only_output = idle_hyperparameters("allegro", ReadoutConfig(), ["allegro_mlp_nonlinearity"])
    assert not only_output


FRIENDLY = {"num_layers": 2, "l_max": 2}
WIDTHS = {"num_scalar_features": 8, "num_tensor_features": 8}


def test_names_of_the_readme_are_understood_by_every_potential():
    assert upstream_names("mace", FRIENDLY | WIDTHS | {"correlation": 2}) == {
        "num_interactions": 2,
        "max_ell": 2,
        "hidden_irreps": "8x0e + 8x1o",
        "correlation": 2,
    }
    assert upstream_names("mace", {"num_scalar_features": 8})["hidden_irreps"] == "8x0e"
    nequip = upstream_names("nequip", FRIENDLY | {**WIDTHS, "num_tensor_features": 4})
    assert nequip == {**FRIENDLY, "num_features": [8, 4, 4]}
    assert upstream_names("allegro", FRIENDLY | WIDTHS) == FRIENDLY | WIDTHS
    by_both = [
        build_model("mace", **COMMON, correlation=1, radial_MLP=[4], **names).state_dict()
        for names in (
            {"num_layers": 1, "l_max": 1, "num_scalar_features": 6},
            {"num_interactions": 1, "max_ell": 1, "hidden_irreps": "6x0e"},
        )
    ]
    assert all(torch.equal(value, by_both[1][key]) for key, value in by_both[0].items())


@pytest.mark.parametrize(
    ("backbone", "names", "said"),
    [
        (
            "mace",
            {"num_layers": 1, "num_interactions": 2},
            "model.num_layers and model.num_interactions of mace say the same, got num_layers 1, "
            "num_interactions 2; allowed: one of them; leave out model.num_layers",
        ),
        ("mace", {"l_max": 1, "max_ell": 1}, "leave out model.l_max"),
        ("mace", {**WIDTHS, "hidden_irreps": "8x0e"}, "leave out model.num_scalar_features and"),
        (
            "mace",
            {"num_scalar_features": 64, "num_tensor_features": 16},
            "got 16 beside num_scalar_features 64; allowed: 64 or 0",
        ),
        ("mace", {"num_tensor_features": 0}, "allowed: >= 1 without"),
        (
            "mace",
            {"num_scalar_features": 0},
            "num_scalar_features of mace, got 0; allowed: a whole",
        ),
        ("nequip", {**WIDTHS, "num_features": 8}, "model.num_features of nequip say the same"),
        ("nequip", {"num_scalar_features": 8}, "model.num_scalar_features alone"),
        ("nequip", {**WIDTHS, "num_tensor_features": "x"}, "got 'x'; allowed: a whole number >= 1"),
    ],
)
def test_names_that_contradict_each_other_are_refused(backbone, names, said):
    with pytest.raises(KanMdError) as error:
        upstream_names(backbone, names)
    assert said in str(error.value)
