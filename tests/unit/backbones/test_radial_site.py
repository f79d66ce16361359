"""KANs in the place of MACE's networks of the distance."""

import copy

import pytest
import torch

from kan_md.backbones import build_model, sites_of
from kan_md.backbones.build import stored_arguments
from kan_md.backbones.readout_report import describe_readouts, readout_lines
from kan_md.backbones.transfer import transfer_weights
from kan_md.errors import KanMdError
from kan_md.kan.network import KAN
from kan_md.model.reference import evaluate

ONE_LAYER = {"num_interactions": 1, "hidden_irreps": "6x0e"}
RADIAL = {"sites": "radial", "num_basis": 5}


@pytest.mark.parametrize("layers", [1, 2])
def test_readouts_stay_upstreams_where_the_radial_networks_alone_are_replaced(tiny_model, layers):
    model = tiny_model("mace", RADIAL, num_interactions=layers)
    output, *radial = (
        e for e in describe_readouts(model, "mace") if e["place"] == f"layer {layers}"
    )
    assert output["made_by"] == "upstream"
    assert output["widths"] == ([6, 1] if layers == 1 else [6, 16, 1])
    assert [(e["site"], e["kind"], e["made_by"]) for e in radial] == [("radial", "kan", "kan-md")]
    inputs, outputs = radial[0]["widths"]
    assert inputs == 4  # Bessel functions
    # 5 coefficients and a base weight per function, a gain per input
    assert radial[0]["parameters"] == 6 * inputs * outputs + inputs
    assert any(line.startswith(f"radial, layer {layers}: kan") for line in readout_lines(radial))


def test_weights_of_the_convolution_are_sums_of_functions_of_the_radial_functions(
    tiny_model, triclinic
):
    """Doubling what one Bessel function gives changes energies as doubling its coefficients."""
    model = copy.deepcopy(tiny_model("mace", RADIAL, **ONE_LAYER))
    (slot,) = sites_of(model, "mace")["radial"]
    kan = slot.function
    x = torch.rand(7, 4, dtype=torch.float64) - 0.3
    layer = kan.layers[0]
    torch.testing.assert_close(kan(x), layer.univariate(x).sum(1))
    assert not kan(torch.zeros(1, 4, dtype=torch.float64)).any()
    before = float(evaluate(model, triclinic)["energy"])
    with torch.no_grad():
        layer.coefficients.zero_()
        layer.base_weight.zero_()
    # Without weights there is no message, and every atom has its reference energy.
    alone = sum({"Cu": -1.25, "Au": -3.5}[symbol] for symbol in triclinic.symbols)
    assert float(evaluate(model, triclinic)["energy"]) == pytest.approx(alone, abs=1e-12)
    assert abs(before - alone) > 1e-3


def test_seed_of_the_other_weights_is_the_same(tiny_model):
    """What is drawn for the radial networks comes behind everything else."""
    with_radial, without = (
        tiny_model("mace", {"sites": sites, "num_basis": 5}, **ONE_LAYER).state_dict()
        for sites in ("all", "output")
    )
    shared = [name for name in without if "conv_tp_weights" not in name]
    assert all(torch.equal(without[name], with_radial[name]) for name in shared)


def test_transfer_names_radial_networks_that_start_fresh(tiny_model):
    old = tiny_model("mace", "linear", **ONE_LAYER)
    model = copy.deepcopy(tiny_model("mace", RADIAL, **ONE_LAYER))
    found = transfer_weights(model, old, backbone="mace")
    assert found.fresh_functions == ("layer0.interaction.conv_tp_weights",)
    with pytest.raises(KanMdError, match="weights to start from do not fit the mace model at"):
        transfer_weights(copy.deepcopy(old), model, backbone="mace")


def test_files_of_before_this_site_read_all_as_what_was_built(tiny_model):
    arguments = {"readout": {"kind": "kan", "sites": ["all"]}}
    old = tiny_model("mace", "kan").state_dict()
    new = tiny_model("mace", {"sites": "all"}).state_dict()
    assert stored_arguments("mace", arguments, old)[0]["readout"]["sites"] == ["output"]
    assert stored_arguments("mace", arguments, new)[0]["readout"]["sites"] == ["all"]


@pytest.mark.parametrize(
    ("readout", "interaction", "message"),
    [
        ({"kind": "finnis_sinclair", "sites": "all"}, None, "readout.kind at the site radial"),
        (RADIAL | {"per_type": True}, None, "readout.per_type has no effect with readout.sites"),
        (
            RADIAL,
            "RealAgnosticAttResidualInteractionBlock",
            "site radial of mace, got an interaction whose network reads more than the distance",
        ),
    ],
)
def test_what_radial_networks_cannot_be_is_refused(readout, interaction, message):
    arguments = {"interaction_cls": interaction} if interaction else {}
    with pytest.raises(KanMdError, match=message):
        build_model(
            "mace",
            seed=1,
            model_dtype="float64",
            type_names=["Cu"],
            r_max=4.0,
            readout=readout,
            avg_num_neighbors=12.0,
            hidden_irreps="4x0e",
            radial_MLP=[8],
            **arguments,
        )


def test_per_type_is_that_of_the_output_alone(tiny_model):
    model = tiny_model("mace", {"sites": "all", "per_type": True, "num_basis": 5}, **ONE_LAYER)
    (radial,) = sites_of(model, "mace")["radial"]
    assert isinstance(radial.function, KAN)
