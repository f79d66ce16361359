"""Weights of the original FastKAN and efficient-kan give the originals' numbers."""

import json
from pathlib import Path

import pytest
import torch

from kan_md.errors import KanMdError
from kan_md.kan.compat import load_efficient_kan_layer, load_fastkan_layer

# Weights, inputs, outputs and input gradients (of outputs weighted 1, 2) of the original layers,
# computed in float64 with the original code.
REFERENCE = json.loads(Path(__file__).with_name("reference_layers.json").read_text())
LOADERS = {
    "fastkan_layer": load_fastkan_layer,
    "fastkan_layer_no_layernorm_no_base": load_fastkan_layer,
    "efficient_kan_linear": load_efficient_kan_layer,
}


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def weights(name):
    return {key: tensor(value) for key, value in REFERENCE[name]["state_dict"].items()}


@pytest.mark.parametrize("name", LOADERS)
def test_outputs_and_gradients_are_the_originals(name):
    layer = LOADERS[name](weights(name))
    x = tensor(REFERENCE[name]["x"]).requires_grad_()
    y = layer(x)
    torch.testing.assert_close(y, tensor(REFERENCE[name]["y"]), atol=1e-12, rtol=0)
    (gradient,) = torch.autograd.grad((y * tensor([1.0, 2.0])).sum(), x)
    expected = tensor(REFERENCE[name]["grad_x_of_weighted_sum"])
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=1e-12)


def test_bspline_values_are_the_originals():
    layer = load_efficient_kan_layer(weights("efficient_kan_linear"))
    reference = REFERENCE["efficient_kan_linear"]
    values = layer.b_splines(tensor(reference["x"]))
    torch.testing.assert_close(values, tensor(reference["bspline_bases"]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", LOADERS)
def test_scripted_layer_is_the_eager_one(name):
    layer = LOADERS[name](weights(name))
    x = tensor(REFERENCE[name]["x"])
    torch.testing.assert_close(torch.jit.script(layer)(x), layer(x), atol=1e-14, rtol=0)


@pytest.mark.parametrize("name", LOADERS)
def test_weights_of_something_else_are_refused(name):
    with pytest.raises(KanMdError, match="pass the state_dict of one layer"):
        LOADERS[name]({"weight": torch.zeros(2, 3)})
    damaged = weights(name)
    damaged["extra"] = torch.zeros(1)
    with pytest.raises(KanMdError, match="extra") as raised:
        LOADERS[name](damaged)
    assert "\n" not in str(raised.value)
