"""How long a tensor model takes for one structure, from Python.

``python tensor_timing.py FILE STRUCTURES [--calls 20]`` prints JSON: of a deployed file the times
of predictions, neighbour list included; of a model.pth those of training steps (forward, backward
and AdamW on one structure, whose graph is ready as in training). Several files take turns, so that
what disturbs the machine disturbs all of them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ase
import ase.io
import torch
from nequip.nn.graph_model import GraphModel

from kan_md.backbones.etgnn import TensorSpec
from kan_md.evaluate.models import is_deployed
from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.reference import model_input
from kan_md.tasks.choose import task_of_checkpoint

_WARM_UP = 5  # TorchScript compiles during the first calls


def prediction(path: Path, atoms: ase.Atoms) -> Callable[[], object]:
    """One prediction of a deployed file."""
    from kan_md_deploy import load_deployed

    model = load_deployed(path)
    return lambda: model.predict(atoms)


def training_step(
    model: GraphModel, specs: Sequence[TensorSpec], atoms: ase.Atoms
) -> Callable[[], object]:
    """One step of the optimiser; labels are zeros, which cost what others cost."""
    model.train()
    data = model_input(atoms, float(model.metadata["r_max"]), model.type_names)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        out = model(dict(data))
        sum(out[spec.field].square().mean() for spec in specs).backward()
        optimizer.step()

    return step


def measure_in_turns(functions: Sequence[Callable[[], object]], calls: int) -> list[list[float]]:
    """Times of every function's calls, ms; the n-th calls of all follow each other."""
    times: list[list[float]] = [[] for _ in functions]
    for number in range(_WARM_UP + calls):
        for found, function in zip(times, functions, strict=True):
            start = time.perf_counter()
            function()
            if number >= _WARM_UP:
                found.append(1e3 * (time.perf_counter() - start))
    return times


def timed_call(path: Path, atoms: ase.Atoms) -> Callable[[], object]:
    """What is timed of a file."""
    if is_deployed(path):
        return prediction(path, atoms)
    checkpoint = load_checkpoint(path)
    return training_step(checkpoint.build(), task_of_checkpoint(checkpoint).specs, atoms)


def main() -> None:
    """Command line of the module."""
    from kan_md.allocator import tune_allocator

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="deployed files or model.pth")
    parser.add_argument("structures", type=Path, help="the last one is taken")
    parser.add_argument("--calls", type=int, default=20)
    options = parser.parse_args()
    tune_allocator()
    atoms = ase.io.read(options.structures)
    calls = [timed_call(path, atoms) for path in options.files]
    times = measure_in_turns(calls, options.calls)
    found = {"ms": times, "atoms": len(atoms), "threads": torch.get_num_threads()}
    print(json.dumps(found))  # noqa: T201 - the program's output


if __name__ == "__main__":
    main()
