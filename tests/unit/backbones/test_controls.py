"""What a KAN is compared with: a line of each element, and the square root that others assume."""

import copy

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.optimize import approx_fprime

from kan_md.backbones.readout import make_readout, parse_readout
from kan_md.backbones.readout_report import describe_readouts, readout_lines
from kan_md.errors import KanMdError
from kan_md.forms.choice import Form
from kan_md.kan.controls import square_root
from kan_md.kan.per_type import by_type
from kan_md.model.reference import evaluate, model_input

ONE_LAYER = {"num_interactions": 1, "hidden_irreps": "6x0e"}
LINE = {"kind": "linear", "per_type": True}
ROOT = {"kind": "finnis_sinclair"}
CONTROLS = [LINE, ROOT, ROOT | {"per_type": True}]


def test_square_root_is_that_of_pacemaker():
    """√(x + e/4) - e/2 as Bochkarev et al. write it, by numpy; odd; a square root far out."""
    x = np.linspace(1e-3, 40.0, 200)
    expected = np.sqrt(x + 0.25 * np.exp(-x)) - 0.5 * np.exp(-x)
    found = square_root(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(square_root(torch.from_numpy(-x)).numpy(), -expected, rtol=1e-12)
    far = torch.tensor([1e4, 1e8], dtype=torch.float64)
    torch.testing.assert_close(square_root(far), far.sqrt())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 4e-7), (torch.float64, 1e-15)])
def test_square_root_is_zero_at_zero_with_a_finite_slope(dtype, tolerance):
    x = torch.tensor([-1e-6, -0.0, 0.0, 1e-6], dtype=dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(square_root(x).sum(), x)
    assert square_root(x)[1:3].tolist() == [0.0, 0.0]
    torch.testing.assert_close(slope, torch.full_like(slope, 1.25), rtol=0, atol=2e-6)
    # No digits are lost next to zero.
    torch.testing.assert_close(square_root(x)[3], 1.25 * x[3], rtol=2e-6, atol=tolerance)


@pytest.mark.parametrize("readout", CONTROLS)
def test_every_row_has_the_weights_of_its_own_type(readout):
    config = parse_readout(readout)
    generator = torch.Generator().manual_seed(1)
    function = make_readout(6, 1, config, num_types=3, generator=generator).double()
    x = torch.randn(12, 6, generator=generator, dtype=torch.float64)
    types = torch.arange(12) % 3
    rows = by_type(x, torch.eye(3, dtype=torch.float64)[types]) if config.per_type else x
    if config.kind == "linear":
        expected = (x * function.weight[types]).sum(1) / 6**0.5
    else:
        own = types if config.per_type else torch.zeros_like(types)
        line, root, gain = (
            part[own] for part in (function.line, function.root, function.input_gain)
        )
        expected = (line * x + root * square_root(gain * x)).sum(1) / 12**0.5
    torch.testing.assert_close(function(rows), expected.unsqueeze(1))


@pytest.mark.parametrize("readout", CONTROLS)
def test_force_is_minus_energy_gradient_and_an_isolated_atom_has_its_energy(
    tiny_model, triclinic, readout
):
    model = tiny_model("mace", readout, **ONE_LAYER)

    def energy(position: np.ndarray) -> float:
        moved = triclinic.copy()
        moved.positions[1] = position
        return float(evaluate(model, moved)["energy"])

    gradient = approx_fprime(triclinic.positions[1], energy, 1e-6)
    forces = evaluate(model, triclinic)["forces"][1].numpy()
    np.testing.assert_allclose(forces, -gradient, atol=1e-6)
    assert np.abs(forces).max() > 2e-3
    assert float(evaluate(model, Atoms("Au", [[0.1, 0.2, 0.3]]))["energy"]) == -3.5


@pytest.mark.parametrize("readout", CONTROLS)
@pytest.mark.parametrize("layers", [1, 2])
def test_training_form_gives_the_same_numbers(tiny_model, triclinic, readout, layers):
    model = tiny_model("mace", readout, hidden_irreps="6x0e", num_interactions=layers)
    data = model_input(triclinic, float(model.metadata["r_max"]), model.type_names)
    fast, upstream = (Form(model, form)(dict(data)) for form in ("fast", "upstream"))
    for key in ("total_energy", "forces", "stress"):
        torch.testing.assert_close(fast[key], upstream[key], rtol=0, atol=1e-12)


def test_a_line_of_each_element_is_what_the_products_of_one_layer_have_anyway(
    tiny_model, triclinic
):
    """The product basis has weights of each element, so that the line can be multiplied into them:
    in one layer this control has no functions that a shared line has not."""
    model = copy.deepcopy(tiny_model("mace", LINE, **ONE_LAYER))
    expected = evaluate(model, triclinic)["forces"]
    readout = model.model.func.readout0.beside.function
    product = model.model.func.layer0.product
    with torch.no_grad():
        line = product.linear.weight.view(6, 6) / 6**0.5 @ readout.matrix().T  # [channels, types]
        for contraction in product.symmetric_contractions.contractions:
            for weights in (contraction.weights_max, *contraction.weights):
                weights.mul_(line.T.unsqueeze(1))  # [types, paths, channels]
        product.linear.weight.copy_(6**0.5 * torch.eye(6).flatten())
        readout.weight.fill_(6**0.5)
    torch.testing.assert_close(evaluate(model, triclinic)["forces"], expected)


def test_description_and_report_name_them(tiny_model):
    model = tiny_model("mace", ROOT | {"per_type": True}, **ONE_LAYER)
    (entry,) = describe_readouts(model, "mace")
    assert (entry["kind"], entry["widths"], entry["per_type"]) == ("finnis_sinclair", [6, 1], True)
    assert entry["parameters"] == 2 * 3 * 6
    (line,) = readout_lines([entry])
    assert line == "output, layer 1: finnis_sinclair 6-1 of each type, 36 parameters"
    (entry,) = describe_readouts(tiny_model("mace", LINE, **ONE_LAYER), "mace")
    assert (entry["kind"], entry["parameters"], entry["made_by"]) == ("linear", 12, "kan-md")


@pytest.mark.parametrize("backbone", ["allegro", "nequip"])
def test_other_backbones_refuse_square_roots_by_name(tiny_model, backbone):
    with pytest.raises(KanMdError, match=f"readout.kind of {backbone}, got finnis_sinclair"):
        tiny_model(backbone, ROOT)


def test_shapes_and_grids_are_refused():
    for key, value in {"hidden": [3], "num_basis": 9, "projection": 2}.items():
        with pytest.raises(KanMdError, match=f"readout.{key} has no effect with readout.kind fin"):
            parse_readout(ROOT | {key: value})
