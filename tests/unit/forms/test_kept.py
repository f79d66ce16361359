"""What is kept of a model's tensors follows each change of them and holds no step's graph."""

import pytest
import torch
from forms_support import cells, make_batch
from test_forms import make_model

from kan_md.forms.choice import Form, with_fixed_weights
from kan_md.forms.kept import Kept, parameters_held
from kan_md.ops import operators_in_layers


def in_place(model):
    for parameter in model.parameters():
        parameter.mul_(1.1)


def past_the_versions(model):
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.1


def loaded(model):
    weights = {name: 1.1 * parameter for name, parameter in model.named_parameters()}
    model.load_state_dict(model.state_dict() | weights)


def moved_grid(model):
    for name, buffer in model.named_buffers():
        if name.endswith("grid_step"):
            buffer.mul_(1.1)


@pytest.mark.parametrize("change", [in_place, past_the_versions, loaded, moved_grid])
def test_numbers_follow_the_weights(change):
    model, batch = make_model(num_layers=2).eval(), make_batch(cells()[:2])
    fixed = with_fixed_weights(model)
    with operators_in_layers():
        before = fixed(dict(batch))
        with torch.no_grad():
            change(model)
        after, expected = fixed(dict(batch)), model(dict(batch))
    assert not torch.allclose(before["forces"], after["forces"], rtol=1e-3)
    for key in ("total_energy", "forces", "stress"):
        torch.testing.assert_close(after[key], expected[key], rtol=1e-10, atol=1e-10, msg=key)


def test_a_model_without_gradients_of_weights_makes_its_products_once():
    made = []
    layer = torch.nn.Linear(2, 2)
    kept = Kept(layer, lambda: made.append(2 * layer.weight) or made[-1])
    assert kept() is not kept()  # in training: part of each step's graph
    assert made[0].requires_grad
    with parameters_held(layer):
        first = kept()
        assert kept() is first
        assert not first.requires_grad
    assert layer.weight.requires_grad
    torch.testing.assert_close(kept(), first)
    assert kept().requires_grad


def test_what_was_made_in_inference_mode_can_be_differentiated_through():
    model, batch = make_model().eval(), make_batch(cells()[:1])
    expected, fixed = model(dict(batch)), with_fixed_weights(model)
    positions = batch["pos"].clone()
    with torch.inference_mode(), operators_in_layers(), pytest.raises(RuntimeError):
        fixed(dict(batch))  # upstream's derivative by positions
    with operators_in_layers():
        found = fixed(batch | {"pos": positions})
    torch.testing.assert_close(found["forces"], expected["forces"], rtol=1e-10, atol=1e-10)


def test_forces_are_the_same_while_parameters_are_held():
    model, batch = make_model(num_layers=2), make_batch(cells()[:2])
    form = Form(model)
    with operators_in_layers():
        expected = form(dict(batch))["forces"]
        with parameters_held(model):
            found = form(dict(batch))["forces"]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
