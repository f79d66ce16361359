"""Where the time of a deployed file goes, by operator, and how far it is from the arithmetic limit.

``python operator_profile.py FILE STRUCTURE [--steps 10]`` prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

import ase
import ase.io
import torch

from kan_md.model.graph import edge_graph

_GEMM_SIZE = 1024
_WARMUP = 3
_FEWEST, _PATIENCE = 2, 5.0
"""Calls that are made in any case, and seconds after which there are no more."""
_PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm")
"""Matrix products of torch; fused operators multiply inside and count nothing here."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One deployed file on one structure.

    Attributes:
        ms_per_step: median of a call (energy and forces), without profiler.
        operators: (name, share of the operators' own time, calls per step), largest first.
        product_gflop: floating point operations of matrix products per step, 1e9.
        gemm_gflops: measured rate of a float32 product of two 1024 x 1024 matrices, 1e9/s.
        limit_ms: time that the products would take at that rate.
        num_edges: directed edges of the structure.
        threads: of torch.
    """

    ms_per_step: float
    operators: list[tuple[str, float, float]]
    product_gflop: float
    gemm_gflops: float
    limit_ms: float
    num_edges: int
    threads: int


def profile(path: Path, atoms: ase.Atoms, *, steps: int = 10) -> Profile:
    """Profile a deployed file on the CPU, with `steps` calls or fewer where they are slow.

    Raises:
        KanMdError: the file cannot be read.
    """
    from kan_md.allocator import tune_allocator
    from kan_md_deploy.runtime import load_deployed

    tune_allocator()  # as the plug-in does in LAMMPS
    model = load_deployed(path)
    vectors, index, types = edge_graph(atoms, model.manifest.r_max, model.manifest.type_names)
    arguments = (vectors, index, types, torch.tensor([len(atoms)]))
    for _ in range(_WARMUP):
        model(*arguments)
    seconds: list[float] = []
    while len(seconds) < steps and (len(seconds) < _FEWEST or sum(seconds) < _PATIENCE):
        start = time.perf_counter()
        model(*arguments)
        seconds.append(time.perf_counter() - start)
    steps = len(seconds)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, record_shapes=True) as trace:
        for _ in range(steps):
            model(*arguments)
    events = [event for event in trace.key_averages() if event.self_cpu_time_total > 0]
    total = sum(event.self_cpu_time_total for event in events)
    events.sort(key=lambda event: -event.self_cpu_time_total)
    shaped = trace.key_averages(group_by_input_shape=True)
    flop = sum(product_flop(e.input_shapes) * e.count for e in shaped if e.key in _PRODUCTS) / steps
    rate = gemm_rate()
    return Profile(
        ms_per_step=sorted(seconds)[len(seconds) // 2] * 1e3,
        operators=[
            (event.key, event.self_cpu_time_total / total, event.count / steps)
            for event in events[:12]
        ],
        product_gflop=flop * 1e-9,
        gemm_gflops=rate * 1e-9,
        limit_ms=flop / rate * 1e3,
        num_edges=index.shape[1],
        threads=torch.get_num_threads(),
    )


def product_flop(shapes: list[list[int]]) -> int:
    """Floating point operations of one matrix product.

    Args:
        shapes: of the inputs as the profiler lists them. The operands come last; before them it may
            list tensors of the surrounding TorchScript graph.
    """
    tensors = [shape for shape in shapes if len(shape) >= 2]
    if len(tensors) < 2:
        return 0
    left, right = tensors[-2:]
    return 2 * prod(left) * right[-1]


def gemm_rate(*, repeats: int = 20) -> float:
    """Floating point operations per second of a square float32 matrix product."""
    a = torch.full((_GEMM_SIZE, _GEMM_SIZE), 0.5)
    torch.mm(a, a)
    start = time.perf_counter()
    for _ in range(repeats):
        torch.mm(a, a)
    return 2.0 * _GEMM_SIZE**3 * repeats / (time.perf_counter() - start)


def main() -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("structure", type=Path)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    found = profile(options.file, ase.io.read(options.structure), steps=options.steps)
    print(json.dumps(asdict(found)))  # noqa: T201 - the program's output


if __name__ == "__main__":
    main()
