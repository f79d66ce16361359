"""A recorded function is the function: its values and gradients, whatever the tensors hold."""

import pytest
import torch

from kan_md.forms.recorded import Recorded


class Products(torch.nn.Module):
    """Products with what makes recordings go wrong: views, writes into views, constants."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in {"a": (3, 4), "b": (4, 5), "unused": (2,)}.items():
            value = torch.randn(shape, generator=generator, dtype=torch.float64)
            self.register_parameter(name, torch.nn.Parameter(value))
        self.register_buffer("scale", torch.tensor(1.3, dtype=torch.float64))

    def make(self):
        """Several tensors, one of them a parameter as it is."""
        product = (self.a @ self.b * self.scale).exp()
        table = torch.zeros(2, 5, dtype=torch.float64)
        table[0, 1:3] = torch.tensor([2.0, 3.0], dtype=torch.float64)
        filled = torch.zeros(3, 5, dtype=torch.float64)
        filled[1:] = product[:2].sin()
        weights = torch.cat([(filled * table[0]).flatten(), product.t().reshape(-1)[2:7]])
        return weights, self.b.t().contiguous(), self.a

    def tensors(self):
        """All that is read."""
        return [self.a, self.b, self.unused, self.scale]


def gradients(made, module):
    """Of a sum of squares of everything."""
    wanted = [p for p in module.parameters() if p.requires_grad]
    loss = sum((number + 1) * one.square().sum() for number, one in enumerate(made))
    return torch.autograd.grad(loss, wanted, allow_unused=True)


def assert_equal(module, recorded):
    expected, found = module.make(), recorded(module.tensors())
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(gradients(found, module), gradients(expected, module), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-14)


def change(module):
    with torch.no_grad():
        for tensor in (*module.parameters(), module.scale):
            tensor.mul_(0.7).add_(0.1)


def test_recorded_function_follows_its_tensors():
    module = Products()
    recorded = Recorded(module.make)
    for _ in range(3):
        assert_equal(module, recorded)
        change(module)


def test_function_is_called_again_only_where_something_else_takes_gradients_or_a_constant_changes():
    module, calls = Products(), []

    def make():
        calls.append(0)
        return module.make()

    recorded = Recorded(make)
    for _ in range(3):
        recorded(module.tensors())
    assert len(calls) == 1
    module.a.requires_grad_(False)
    assert_equal(module, recorded)
    assert len(calls) == 2
    module.scale.data.mul_(1.1)  # which torch does not count as a change
    assert_equal(module, recorded)
    assert len(calls) == 3
    with torch.no_grad():
        module.b.mul_(1.1)
    assert_equal(module, recorded)
    assert len(calls) == 3


def test_gradients_of_some_results_alone():
    module = Products()
    recorded = Recorded(module.make)
    expected = torch.autograd.grad(module.make()[0].sum(), [module.a, module.b])
    found = torch.autograd.grad(recorded(module.tensors())[0].sum(), [module.a, module.b])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-14)


def test_results_of_a_step_stay_when_the_next_one_is_made():
    module = Products()
    recorded = Recorded(module.make)
    first = recorded(module.tensors())
    expected = [one.clone() for one in module.make()]
    change(module)
    assert not torch.equal(recorded(module.tensors())[0], expected[0])
    for one, other in zip(first[:2], expected[:2], strict=True):  # the third is a parameter
        assert torch.equal(one, other)


def test_function_that_asks_for_values_is_not_recorded():
    module = Products()

    def make():
        return [module.a if float(module.a.sum()) > 1.0 else module.a * 2.0]

    with pytest.raises(AssertionError, match="depends on values"):
        Recorded(make)(module.tensors())
