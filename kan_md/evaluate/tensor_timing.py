"""How long a tensor model takes for one structure, from Python.

``python -m kan_md.evaluate.tensor_timing FILE STRUCTURES [--calls 20]`` prints JSON: of a deployed
file the time of a prediction, neighbour list included; of a model.pth the time of a training step
(forward, backward and AdamW on one structure, whose graph is ready as in training).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ase
import ase.io
import torch
from nequip.nn.graph_model import GraphModel

from kan_md.backbones.etgnn import TensorSpec
from kan_md.evaluate.potentials import is_deployed
from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.reference import model_input
from kan_md.model.tensors import tensors_of

_WARM_UP = 5  # TorchScript compiles during the first calls


def prediction(path: Path, atoms: ase.Atoms) -> Callable[[], object]:
    """One prediction of a deployed file."""
    from kan_md_deploy import load_deployed_tensors

    model = load_deployed_tensors(path)
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


def measure(call: Callable[[], object], calls: int) -> tuple[float, float]:
    """Median and standard deviation of the time of a call, ms."""
    for _ in range(_WARM_UP):
        call()
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times), statistics.stdev(times)


def main() -> None:
    """Command line of the module."""
    from kan_md.allocator import tune_allocator

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("structures", type=Path, help="the last one is taken")
    parser.add_argument("--calls", type=int, default=20)
    options = parser.parse_args()
    tune_allocator()
    deployed = is_deployed(options.file)
    atoms = ase.io.read(options.structures)
    if deployed:
        call = prediction(options.file, atoms)
    else:
        checkpoint = load_checkpoint(options.file)
        call = training_step(checkpoint.build(), tensors_of(checkpoint), atoms)
    median, spread = measure(call, options.calls)
    found = {
        "ms_per_frame" if deployed else "ms_per_training_step": median,
        "ms_error": spread,
        "atoms": len(atoms),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(found))  # noqa: T201 - the program's output


if __name__ == "__main__":
    main()
