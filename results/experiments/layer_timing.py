"""How long a readout of one layer takes in training, alone and from Python.

``python layer_timing.py [--points 25000] [--calls 20]`` prints JSON: times of KAN layers of every
basis, with the C++ operators and in plain torch, and their ratios to an MLP.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence

import torch

from kan_md.backbones.readout import MLP
from kan_md.benchmark.statistics import median_and_spread
from kan_md.kan import BASES, KANLayer
from kan_md.ops import function_sums, operators_in_layers

CONTROL = "MLP"
_WARM_UP = 3


def training_step(module: torch.nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """Forward, and gradients of Σ_n y_n by parameters and inputs.

    Args:
        module: [num_points, num_inputs] -> [num_points, 1].
        x: [num_points, num_inputs].
    """
    x = x.clone().requires_grad_()
    variables = [x, *module.parameters()]

    def step() -> None:
        torch.autograd.grad(module(x).sum(), variables)

    return step


def force_training_step(module: torch.nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """Forward, forces F = -∂(Σ_n y_n)/∂x, and gradients of Σ F² + Σ y² by parameters and inputs."""
    x = x.clone().requires_grad_()
    variables = [x, *module.parameters()]

    def step() -> None:
        y = module(x)
        (forces,) = torch.autograd.grad(-y.sum(), x, create_graph=True)
        torch.autograd.grad(forces.square().sum() + y.square().sum(), variables)

    return step


def measure_in_turn(
    steps: dict[str, Callable[[], None]], calls: int
) -> dict[str, dict[str, list[float]]]:
    """Time every step once per round; a round's ratio is to the control's time in that round.

    Returns:
        For every step ``ms`` and ``ratio``, each median and standard deviation over the rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(_WARM_UP + calls):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            elapsed = 1e3 * (time.perf_counter() - start)
            if number >= _WARM_UP:
                times[name].append(elapsed)
    ratios = {
        name: [t / c for t, c in zip(values, times[CONTROL], strict=True)]
        for name, values in times.items()
    }
    return {
        name: {"ms": median_and_spread(values), "ratio": median_and_spread(ratios[name])}
        for name, values in times.items()
    }


def make_modules(num_inputs: int, operators: object | None) -> dict[str, torch.nn.Module]:
    """The control, KAN layers that use the operators where there are some, and plain ones."""
    generator = torch.Generator().manual_seed(1)
    modules: dict[str, torch.nn.Module] = {
        CONTROL: MLP([num_inputs, num_inputs // 2, 1], generator=generator)
    }
    for label, chosen in (("C++", operators), ("torch", None)):
        if label == "torch" or operators is not None:
            for basis in BASES:
                layer = KANLayer(num_inputs, 1, basis=basis, generator=generator)
                modules[f"KAN {basis}, {label}"] = _WithKernels(layer, chosen)
    return modules


class _WithKernels(torch.nn.Module):
    """A layer that computes its sums with the operators given, or with plain torch."""

    def __init__(self, layer: KANLayer, operators: object | None):
        super().__init__()
        self.layer, self.operators = layer, operators

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # stays in force for the backward pass, until the next module's turn
        function_sums.use_operators(self.operators)
        return self.layer(x)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the module."""
    from kan_md.allocator import tune_allocator

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=25000)
    parser.add_argument("--inputs", type=int, default=64)
    parser.add_argument("--calls", type=int, default=20)
    options = parser.parse_args(arguments)
    tune_allocator()
    x = torch.randn(options.points, options.inputs, generator=torch.Generator().manual_seed(2))
    found: dict[str, object] = {"threads": torch.get_num_threads(), "dtype": str(x.dtype)}
    with operators_in_layers() as available:
        modules = make_modules(options.inputs, torch.ops.kan_md if available else None)
        for name, make in (("step", training_step), ("force_step", force_training_step)):
            steps = {label: make(module, x) for label, module in modules.items()}
            found[name] = measure_in_turn(steps, options.calls)
    print(json.dumps(found))  # noqa: T201 - the program's output


if __name__ == "__main__":
    main()
