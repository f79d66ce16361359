"""Functions of the densities that each element has for itself."""

import copy

import pytest
import torch
from ase import Atoms

from kan_md.backbones.readout import make_readout, parse_readout
from kan_md.backbones.readout_report import describe_readouts, readout_lines
from kan_md.backbones.transfer import freeze_all_but_readouts
from kan_md.errors import KanMdError
from kan_md.forms.choice import Form
from kan_md.kan.layer import KANLayer
from kan_md.kan.per_type import PerTypeKAN, by_type
from kan_md.model.reference import evaluate, model_input
from kan_md.train.grid_callback import GridFitCallback

PER_TYPE = {"kind": "kan", "num_basis": 5, "per_type": True}
SHAPES = [
    {},
    {"hidden": [3], "basis": "bspline"},
    {"projection": 4, "basis": "fourier", "num_basis": 6},
    {"projection": 4, "hidden": [3]},
]
ONE_LAYER = {"num_interactions": 1, "hidden_irreps": "6x0e"}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_row_has_the_function_of_its_own_type(shape, dtype):
    config = parse_readout({**PER_TYPE, **shape})
    generator = torch.Generator().manual_seed(1)
    readout = make_readout(6, 1, config, num_types=3, generator=generator).to(dtype)
    assert isinstance(readout, PerTypeKAN)
    x = torch.randn(12, 6, generator=generator, dtype=dtype)
    types = torch.arange(12) % 3
    found = readout(by_type(x, torch.eye(3, dtype=dtype)[types]))
    inner = x if readout.projection is None else readout.projection(x)
    expected = torch.stack([readout.kans[t](inner[i]) for i, t in enumerate(types.tolist())])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("hyperparameters", [ONE_LAYER, {}], ids=["one layer", "two layers"])
def test_an_element_s_energies_change_with_its_own_functions_alone(
    tiny_model, triclinic, hyperparameters
):
    model = copy.deepcopy(tiny_model("mace", PER_TYPE, **hyperparameters))
    before = evaluate(model, triclinic)["atomic_energy"].flatten()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, PerTypeKAN):
                module.kans[1].layers[-1].coefficients.mul_(1.5)  # of gold
    change = (evaluate(model, triclinic)["atomic_energy"].flatten() - before).abs()
    gold = torch.tensor([symbol == "Au" for symbol in triclinic.symbols])
    assert (change[gold] > 1e-4).all()
    assert not change[~gold].any()


def test_equal_functions_of_all_types_are_one_shared_readout(tiny_model, triclinic):
    shared = tiny_model("mace", {"kind": "kan", "num_basis": 5})
    model = copy.deepcopy(tiny_model("mace", PER_TYPE))
    state = {}
    for name in model.state_dict():
        for number in range(2):
            old = name.replace(f".kans.{number}.", ".")
            if old in shared.state_dict():
                state[name] = shared.state_dict()[old]
    assert state.keys() == model.state_dict().keys()
    model.load_state_dict(state)
    one, other = evaluate(model, triclinic), evaluate(shared, triclinic)
    torch.testing.assert_close(one["forces"], other["forces"], rtol=0, atol=1e-12)
    assert float(one["energy"]) == pytest.approx(float(other["energy"]), abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_force_is_minus_energy_gradient_and_an_isolated_atom_has_its_energy(
    tiny_model, triclinic, shape
):
    model = tiny_model("mace", {**PER_TYPE, **shape}, **ONE_LAYER)
    force = float(evaluate(model, triclinic)["forces"][1, 2])
    step, energies = 1e-4, []
    for shift in (2, 1, -1, -2):
        moved = triclinic.copy()
        moved.positions[1, 2] += shift * step
        energies.append(float(evaluate(model, moved)["energy"]))
    gradient = sum(w * e for w, e in zip((-1, 8, -8, 1), energies, strict=True)) / (12 * step)
    assert force == pytest.approx(-gradient, abs=2e-9, rel=1e-8)
    assert float(evaluate(model, Atoms("Au", [[0.1, 0.2, 0.3]]))["energy"]) == -3.5


def test_description_names_them_and_they_train_as_a_readout(tiny_model):
    model = copy.deepcopy(tiny_model("mace", {**PER_TYPE, "projection": 4}, **ONE_LAYER))
    (entry,) = describe_readouts(model, "mace")
    # of each of two types: 4 gains, 4 base weights, 4 x 5 coefficients; and one projection
    assert entry["parameters"] == 2 * (4 + 4 + 20) + 6 * 4
    assert (entry["per_type"], entry["widths"], entry["made_by"]) == (True, [6, 4, 1], "kan-md")
    assert "kan gaussian 6-4-1 of each type, 80 parameters" in readout_lines([entry])[0]
    trainable = freeze_all_but_readouts(model, backbone="mace")
    assert sum(model.get_parameter(name).numel() for name in trainable) == 80


def test_grids_are_fitted_to_the_atoms_of_the_type_alone():
    """The zeros at the places of other types say nothing of where the functions are used."""
    layer = KANLayer(2, 1, basis="gaussian", num_basis=8)
    callback = GridFitCallback()
    callback._inputs["layer"] = []
    record = callback._recorder("layer")
    rows = torch.tensor([[0.0, 0.0], [1.5, 2.0], [0.0, 0.0], [0.0, -1.0]])
    record(layer, (rows,))
    assert torch.equal(torch.cat(callback._inputs["layer"]), rows[[1, 3]])


@pytest.mark.parametrize("backbone", ["allegro", "nequip"])
def test_other_backbones_refuse_them_by_name(tiny_model, backbone):
    with pytest.raises(KanMdError, match=f"readout.per_type has no effect with {backbone}"):
        tiny_model(backbone, PER_TYPE)


def test_training_form_gives_the_same_numbers(tiny_model, triclinic):
    model = tiny_model("mace", PER_TYPE, **ONE_LAYER)
    data = model_input(triclinic, float(model.metadata["r_max"]), model.type_names)
    fast, upstream = (Form(model, form)(dict(data)) for form in ("fast", "upstream"))
    for key in ("total_energy", "forces", "stress"):
        torch.testing.assert_close(fast[key], upstream[key], rtol=0, atol=1e-12)
