"""Optimisers of a training: one call for all parameters, the steps of torch's loop."""

import pytest
import torch
from hydra.utils import get_class

from kan_md.train.trainer import _OPTIMIZERS


@pytest.mark.parametrize("name", [n for n, own in _OPTIMIZERS.items() if own.get("fused")])
def test_fifty_steps_are_those_of_torchs_own_loop(name):
    results = []
    for own in (True, False):
        generator = torch.Generator().manual_seed(0)
        parameters = [
            torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
            for shape in ((8, 4), (5,), (2, 3, 4), ())
        ]
        options = dict(_OPTIMIZERS[name])
        kind = get_class(options.pop("_target_"))
        options = options if own else {"foreach": False}
        optimizer = kind(parameters, lr=0.01, weight_decay=0.01, **options)
        for number in range(50):
            for parameter in parameters:
                parameter.grad = torch.sin(3.0 * parameter.detach() + number)
            optimizer.step()
        results.append(parameters)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
