"""Formulas for functions of known form, alone and as layers of a readout."""

import json

import numpy as np
import pytest
import torch

from kan_md.cli.main import main
from kan_md.evaluate.functions import learned_functions
from kan_md.evaluate.symbolic import IS_FOUND, nearest_form, symbolic_fits
from kan_md.kan.layer import KANLayer
from kan_md.model.checkpoint import load_checkpoint, save_checkpoint

NAMES = ("Cu", "Au")
LOCAL = {"num_interactions": 1, "hidden_irreps": "4x0e", "type_names": NAMES}
FINE = {"num_basis": 64, "base": "none", "input_gain": "none"}
KNOWN = {
    "line": lambda x: 3.0 - 0.7 * x,
    "square": lambda x: 1.0 - 0.3 * (x - 1.2) ** 2,
    "cube": lambda x: 0.2 * (x - 2.0) ** 3 + 4.0,
    "square root": lambda x: -0.5 * np.sqrt(x),
    "logarithm": lambda x: 2.0 * np.log1p(5.0 * x),
    "reciprocal": lambda x: 0.1 / (x + 0.2),
    "exponential": lambda x: 0.4 * np.exp(-2.0 * x),
    "tanh": lambda x: 2.0 * np.tanh(3.0 * (x - 1.1)) - 1.0,
    "Gaussian": lambda x: np.exp(-((2.0 * (x - 1.4)) ** 2)),
    "sine": lambda x: 0.3 * np.sin(4.0 * x + 1.0),
}


def arguments(count=401):
    """Quantiles of a lopsided distribution between 0.05 and 2.5."""
    return 0.05 + 2.45 * np.linspace(0.0, 1.0, count) ** 1.5


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("mirrored", [False, True])
def test_every_form_of_the_library_is_found_with_its_numbers(name, mirrored):
    x = arguments()
    y = KNOWN[name](x)
    x = -100.0 * x if mirrored else x
    form, (c, a, b, d), r2, beside = nearest_form(x, y)
    assert form == name
    assert r2 > 1.0 - 1e-7
    assert beside is None if name == "line" else beside > 1.0 - 1e-6
    functions = {"square root": np.sqrt, "tanh": np.tanh, "sine": np.sin}
    if name in functions:
        np.testing.assert_allclose(c + a * functions[name](b * x + d), y, atol=1e-3 * np.ptp(y))


def test_r2_is_that_of_the_distribution_given():
    """The same function is a line where most arguments are, and none elsewhere."""
    x = np.concatenate([np.linspace(-1.0, -0.9, 10_000), [1.0]])
    y = np.where(x < 0, x, x + 0.01 * x**2)
    assert nearest_form(x, y)[0] == "line"
    assert nearest_form(np.linspace(-1, 1, 401), np.linspace(-1, 1, 401) ** 2)[0] == "square"


def test_what_the_library_lacks_is_told_so_whatever_line_it_lies_on():
    x = np.linspace(0.0, 1.0, 401)
    teeth = np.abs((6.3 * x) % 1.0 - 0.5) + 0.3 * np.sin(40.0 * x)
    for slope in (0.0, 10.0):
        _, _, r2, beside = nearest_form(x, teeth + slope * x)
        assert beside < 0.5 < IS_FOUND
        assert r2 > 0.99 or slope == 0.0  # which by itself would mislead


def set_functions(checkpoint, chosen, frames):
    """Set the first layer of every KAN to functions ``chosen(type, input, output)`` of z.

    z goes from 0 to 1 over the arguments of the layer's own type; of a layer that all types share
    over those of the first one.
    """
    functions = learned_functions(checkpoint, frames)
    model = checkpoint.build()
    inputs = 1 + max(f.number for f in functions)
    layers = [m for m in model.modules() if isinstance(m, KANLayer) and m.in_features == inputs]
    with torch.no_grad():
        for kind, layer in enumerate(layers):
            mine = [f for f in functions if f.type_name == NAMES[kind]]
            mine.sort(key=lambda f: f.number)
            ends = torch.tensor([f.quantiles[[0, -1]].tolist() for f in mine]).double()
            low, high = ends.t()
            margin = 0.02 * (high - low)
            layer.set_grid((low - margin).clamp(max=0.0), (high + margin).clamp(min=0.0))
            z = torch.linspace(0.0, 1.0, 2001, dtype=torch.float64).unsqueeze(1)
            x = low + z * (high - low)
            values = layer.basis_functions(x, layer.grid_step, layer.grid_zero)
            for i in range(layer.in_features):
                # A constant is free, because functions are zero at zero.
                features = torch.cat([values[:, i], torch.ones_like(z)], dim=1)
                for o in range(layer.out_features):
                    wanted = torch.from_numpy(chosen(kind, i, o)(z.numpy()))
                    solved = torch.linalg.lstsq(features, wanted, driver="gelsd").solution
                    layer.coefficients[o, i] = solved[:-1, 0]
    checkpoint.state_dict = model.state_dict()
    return checkpoint


FORMS = {
    "square root": lambda z: np.sqrt(z + 0.05),
    "tanh": lambda z: np.tanh(6.0 * (z - 0.5)),
    "square": lambda z: (z - 0.3) ** 2,
}


@pytest.mark.parametrize(
    ("backbone", "readout"),
    [("mace", {}), ("mace", {"per_type": True}), ("mace", {"hidden": [3]}), ("allegro", {})],
    ids=["shared", "per type", "several outputs", "edges"],
)
def test_layers_of_known_form_are_found(tiny_checkpoint, alloy_frames, backbone, readout):
    keywords = LOCAL if backbone == "mace" else {"type_names": NAMES}
    readout = FINE | {"basis": "bspline"} | readout
    checkpoint = load_checkpoint(tiny_checkpoint(backbone, readout=readout, **keywords))
    names = list(FORMS)

    def form(kind: int, number: int, output: int) -> str:
        return names[(kind + number + output) % len(names)]

    checkpoint = set_functions(checkpoint, lambda *place: FORMS[form(*place)], alloy_frames)
    functions = learned_functions(checkpoint, alloy_frames)
    fits = symbolic_fits(functions)
    outputs = readout.get("hidden", [1])[0]
    own = [name for name in NAMES if name == NAMES[0] or readout.get("per_type")]
    places = [(f.type_name, f.number) for f in functions for _ in range(outputs)]
    fitted = [(fit.type_name, fit.number) for fit in fits]
    assert [p for p in fitted if p[0] in own] == [p for p in places if p[0] in own]
    assert {fit.type_name for fit in fits} == set(NAMES)
    for fit in fits:
        kind = NAMES.index(fit.type_name)
        (function,) = (
            f for f in functions if (f.type_name, f.number) == (fit.type_name, fit.number)
        )
        x, y = function.quantiles, function.values[fit.output]
        left = np.square(y - fit.values(x)).sum() / np.square(y - y.mean()).sum()
        assert fit.r2 == pytest.approx(1.0 - left, abs=1e-9)
        if fit.type_name in own:  # whose arguments the forms were spread over
            assert (fit.form, fit.found) == (form(kind, fit.number, fit.output), True)
            assert fit.r2 > 0.999 and fit.r2_beside_line > 0.999


def test_a_layer_that_is_none_of_the_library_is_said_to_be_none(
    tiny_checkpoint, alloy_frames, tmp_path, capsys
):
    readout = FINE | {"basis": "bspline", "per_type": True}
    checkpoint = load_checkpoint(tiny_checkpoint("mace", readout=readout, **LOCAL))
    teeth = lambda z: np.abs((4.3 * z) % 1.0 - 0.5) + 0.5 * np.sin(47.0 * z)  # noqa: E731
    checkpoint = set_functions(checkpoint, lambda *_: teeth, alloy_frames)
    fits = symbolic_fits(learned_functions(checkpoint, alloy_frames))
    assert fits and all(not fit.found and fit.r2_beside_line < 0.9 for fit in fits)
    path = save_checkpoint(checkpoint, tmp_path / "model.pth")
    outputs = []
    for more in ([], ["--json"]):
        with pytest.raises(SystemExit) as status:
            main(["inspect", str(path), "--symbolic", *more])
        assert status.value.code == 0
        outputs.append(capsys.readouterr().out)
    assert "none (nearest:" in outputs[0] and "ρ" not in outputs[0]
    for entry in json.loads(outputs[1])["symbolic"]:
        assert entry["found"] is False and len(entry["parameters"]) == 4
