"""Building: seeds, global state, sites, hops, and what is said of wrong hyperparameters."""

import os
import random
import sys

import e3nn
import numpy as np
import pytest
import torch

from kan_md.backbones import build_model, num_layers_of, sites_of
from kan_md.backbones.build import ADAPTERS
from kan_md.backbones.mace import WEIGHTS_ONLY_OVERRIDE, import_mace
from kan_md.errors import KanMdError
from kan_md.kan.network import KAN

POTENTIALS = ["allegro", "nequip", "mace"]


def arguments(backbone: str, **changes):
    common = {
        "seed": 1,
        "model_dtype": "float32",
        "type_names": ["Ag"],
        "r_max": 4.0,
        "avg_num_neighbors": 12.0,
    }
    own = {
        "allegro": {"l_max": 1, "num_layers": 2, "num_scalar_features": 4},
        "nequip": {"l_max": 1, "num_layers": 2, "num_features": 4},
        "mace": {"hidden_irreps": "4x0e", "max_ell": 1, "correlation": 1, "radial_MLP": [4]},
    }
    return {**common, **own[backbone], **changes}


def build(backbone: str, **changes):
    return build_model(backbone, **arguments(backbone, **changes))


def readout_weights(backbone: str, seed: int) -> torch.Tensor:
    slots = sites_of(build(backbone, seed=seed), backbone)["output"]
    return torch.cat([p.flatten() for slot in slots for p in slot.function.parameters()])


@pytest.mark.parametrize("backbone", POTENTIALS)
def test_three_seeds_give_three_kan_initialisations(backbone):
    first, second, third = (readout_weights(backbone, seed) for seed in (1111, 2222, 3333))
    for one, other in ((first, second), (first, third), (second, third)):
        assert (one - other).abs().max() > 0.01
    assert torch.equal(first, readout_weights(backbone, 1111))


def test_layers_of_one_model_start_with_different_kans():
    slots = sites_of(build("allegro", readout={"sites": "latent"}), "allegro")["latent"]
    first, second = (slot.function.layers[0].coefficients for slot in slots)
    assert (first[:4, :4] - second[:4, :4]).abs().max() > 0.01


@pytest.mark.parametrize("backbone", POTENTIALS)
@pytest.mark.parametrize("succeeds", [True, False])
def test_building_leaves_no_trace(backbone, succeeds):
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002 - the global stream is what is looked at
    torch.manual_seed(5)
    torch.set_default_dtype(torch.float32)
    before = (random.getstate(), torch.get_rng_state(), e3nn.get_optimization_defaults())
    numpy_before = np.random.get_state()[1].copy()  # noqa: NPY002
    if succeeds:
        build(backbone)
    else:
        with pytest.raises(KanMdError, match="refuses its hyperparameters"):
            wrong = {"mace": "correlation", "nequip": "num_features", "allegro": "pair_potential"}
            build(backbone, **{wrong[backbone]: "x"})
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert e3nn.get_optimization_defaults() == before[2]
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002
    assert torch.get_default_dtype() == torch.float32


def test_kans_stand_at_the_sites_that_are_asked_for():
    for sites, expected in (
        ("output", {"output"}),
        ("two_body", {"two_body"}),
        (["two_body", "latent"], {"two_body", "latent"}),
        ("all", {"output", "two_body", "latent"}),
    ):
        model = build("allegro", readout={"sites": sites})
        found = sites_of(model, "allegro")
        assert {
            site
            for site, slots in found.items()
            if all(isinstance(slot.function, KAN) for slot in slots)
        } == expected
        assert [len(found[site]) for site in ("output", "two_body", "latent")] == [1, 1, 2]


def test_mace_replaces_the_last_readout_and_keeps_the_linear_ones():
    model = build("mace", num_interactions=3)
    readouts = [getattr(model.model.func, f"readout{index}") for index in range(3)]
    assert [readout.block is not None for readout in readouts] == [True, True, False]
    assert all(isinstance(readout.beside.function, KAN) for readout in readouts)


def test_hops_of_message_passing():
    assert num_layers_of(build("allegro", num_layers=2), "allegro") == 1
    assert num_layers_of(build("nequip", num_layers=3), "nequip") == 3
    assert num_layers_of(build("mace", num_interactions=1), "mace") == 1


@pytest.mark.parametrize("backbone", POTENTIALS)
def test_reference_energies_have_a_place_in_every_model(backbone):
    state = build(backbone).state_dict()
    shifts = [value for name, value in state.items() if name.endswith("scale_shift.shifts")]
    assert [value.shape for value in shifts] == [(1, 1)]


@pytest.mark.parametrize("backbone", POTENTIALS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r_max": -1}, "r_max must be > 0 Å, got -1; set model.r_max"),
        ({"r_max": 0.0}, "r_max must be > 0 Å, got 0.0"),
        ({"r_max": float("nan")}, "r_max must be > 0 Å, got nan"),
        ({"r_max": "wide"}, "r_max must be > 0 Å, got wide"),
        ({"type_names": []}, "type_names must not be empty"),
        ({"type_names": ["Ag", "Ag"]}, "type_names must not repeat a name"),
        ({"type_names": ["A g"]}, "type_names must be alphanumeric"),
        ({"model_dtype": "half"}, "got 'half'; allowed: float32, float64"),
        ({"correlatoin": 3}, "unknown hyperparameter of .*, got 'correlatoin'; allowed: .*;"),
        ({"avg_num_neighbors": None}, "avg_num_neighbors of .* must be given"),
        ({"readout": {"kind": "tree"}}, "got 'tree'"),
    ],
)
def test_wrong_arguments_are_named(backbone, changes, message):
    with pytest.raises(KanMdError, match=message) as caught:
        build(backbone, **changes)
    assert "\n" not in str(caught.value)


def test_near_misses_get_a_suggestion():
    with pytest.raises(KanMdError, match="did you mean 'num_layers'"):
        build("nequip", num_layer=2)


@pytest.mark.parametrize(
    ("backbone", "allowed"), [("nequip", "output, all"), ("mace", "output, radial, all")]
)
def test_sites_of_other_backbones_are_refused(backbone, allowed):
    with pytest.raises(KanMdError, match=f"sites of {backbone}, got latent; allowed: {allowed}"):
        build(backbone, readout={"sites": "latent"})


def test_unknown_backbone_is_named():
    with pytest.raises(KanMdError, match="unknown backbone, got 'painn'; allowed: allegro, neq"):
        build_model("painn", seed=0, model_dtype="float32", type_names=["Ag"], r_max=4.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interaction_cls": "Block"}, "interaction_cls of mace, got 'Block'; allowed: RealAgn"),
        ({"gate": "relu"}, "gate of mace, got 'relu'; allowed: abs, tanh, silu"),
        (
            {"readout": {"kind": "mlp", "hidden": [4, 4]}, "gate": "tanh"},
            "model.gate beside several widths in readout.hidden, got tanh; allowed: silu",
        ),
        ({"hidden_irreps": "4x1o"}, "0e scalars side by side"),
    ],
)
def test_wrong_mace_arguments_are_named(changes, message):
    with pytest.raises(KanMdError, match=message):
        build("mace", **changes)


@pytest.mark.parametrize(
    ("backbone", "changes", "message"),
    [
        (
            "allegro",
            {"num_layers": 0},
            "num_layers of allegro, got 0; allowed: a whole number >= 1",
        ),
        ("allegro", {"l_max": -1}, "l_max of allegro, got -1; allowed: a whole number >= 0"),
        ("allegro", {"l_max": "many"}, "got 'many'"),
        ("allegro", {"num_scalar_features": -8}, "got -8"),
        ("allegro", {"radial_chemical_embed": {"_target_": "x.y"}}, "_target_ of a hyperparameter"),
        (
            "allegro",
            {"pair_potential": {"_target_": "nequip.nn.mlp.sqrt"}},
            "modules of allegro.nn and nequip.nn",
        ),
        ("nequip", {"pair_potential": {"_target_": "nequip.nn.mlp.torch.nn.Mish"}}, "_target_ of"),
        ("nequip", {"num_layers": 1.5}, "got 1.5"),
        ("nequip", {"parity": "o3_full"}, "got 'o3_full'; allowed: true or false"),
        ("mace", {"max_ell": True}, "got True; allowed: a whole number"),
    ],
)
def test_wrong_numbers_and_switches_are_named(backbone, changes, message):
    with pytest.raises(KanMdError, match=message):
        build(backbone, **changes)


def test_mace_without_mace_torch_names_the_remedy(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "mace"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mace", None)
    with pytest.raises(KanMdError, match=r"needs mace-torch.*pip install --no-deps mace-torch"):
        build("mace")


def test_importing_mace_does_not_let_torch_unpickle_everything(monkeypatch):
    monkeypatch.delenv(WEIGHTS_ONLY_OVERRIDE, raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "mace"]:
        monkeypatch.delitem(sys.modules, name)
    import_mace()
    assert WEIGHTS_ONLY_OVERRIDE not in os.environ


@pytest.mark.parametrize("backbone", POTENTIALS)
def test_every_hyperparameter_has_a_place_upstream(backbone):
    names = ADAPTERS[backbone].hyperparameters()
    assert {"avg_num_neighbors", "per_type_energy_shifts", "per_type_energy_scales"} <= names.keys()
    assert not {"seed", "model_dtype", "readout", "type_names", "r_max"} & names.keys()
