"""Where the time of a deployed file goes: ``python -m kan_md_deploy.profile FILE [FILE ...]``.

Several files, for example with and without optimisation passes, stand side by side.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.autograd.profiler import profile

from kan_md_deploy.frames import graph_of, made_up_crystal
from kan_md_deploy.runtime import DeployedModel, load_deployed
from kan_md_deploy.timing import median_times
from kan_md_deploy.verify import Graph

_GROUPS = {
    "matrix products": ("mm", "bmm", "addmm", "matmul", "linear", "baddbmm"),
    "gathers and scatters": ("index", "gather", "scatter", "embedding", "take"),
    "copies": ("copy", "clone", "cat", "contiguous", "fill", "zero", "empty", "_to_copy"),
    "kan-md operators": ("kan_md",),
}
_ROUNDS = 10


def profile_file(model: DeployedModel, graph: Graph) -> dict[str, float]:
    """Milliseconds per step by kind of operation, the profiler's own cost included.

    Args:
        model: the deployed file.
        graph: inputs to profile it on.
    """
    for _ in range(4):
        model(*graph)
    with profile() as recorded:
        for _ in range(_ROUNDS):
            model(*graph)
    times = dict.fromkeys([*_GROUPS, "elementwise and reductions", "interpreter and autograd"], 0.0)
    for event in recorded.key_averages():
        times[_group_of(event.key)] += event.self_cpu_time_total / 1000.0 / _ROUNDS
    return times


def _group_of(name: str) -> str:
    if not name.startswith(("aten::", "kan_md::")):
        return "interpreter and autograd"
    short = name.removeprefix("aten::")
    for group, words in _GROUPS.items():
        exact = group == "matrix products"
        if any(short == word if exact else short.lstrip("_").startswith(word) for word in words):
            return group
    return "elementwise and reductions"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m kan_md_deploy.profile", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="deployed files of one model")
    parser.add_argument("--repeat", type=int, default=2, help="copies of the crystal per axis")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    models = [load_deployed(file) for file in chosen.files]
    manifest = models[0].manifest
    crystal = made_up_crystal(manifest.type_names, manifest.r_max).repeat(chosen.repeat)
    graph = graph_of(crystal, manifest.r_max, manifest.type_names)
    steps = [1000 * t for t in median_times([partial(model, *graph) for model in models])]
    found = [
        {"step": step} | profile_file(model, graph)
        for step, model in zip(steps, models, strict=True)
    ]
    if chosen.json:
        head = {
            "atoms": len(crystal),
            "edges": graph[0].size(0),
            "threads": torch.get_num_threads(),
        }
        Console().print_json(
            json.dumps(head | dict(zip(map(str, chosen.files), found, strict=True)))
        )
        return
    table = Table(
        title=f"ms per step, {len(crystal)} atoms, {graph[0].size(0)} edges, "
        f"{torch.get_num_threads()} threads"
    )
    table.add_column("")
    for file in chosen.files:
        table.add_column(file.name, justify="right")
    for key in found[0]:
        table.add_row(key, *(f"{column[key]:.2f}" for column in found))
    Console().print(table)


if __name__ == "__main__":
    main()
