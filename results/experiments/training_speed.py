"""Speed of training: ``python -m results.experiments.training_speed --output results``.

Steps of kan-md's form of a model against upstream's modules. Writes training.md and training.json;
a model is measured once, ``--fresh`` measures all again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from kan_md.benchmark.compare import command_line
from kan_md.benchmark.log import last_line
from kan_md.benchmark.machine import describe_machine, machine_line
from kan_md.benchmark.report import markdown_table, save_atomically
from kan_md.benchmark.store import check_folder
from kan_md.errors import KanMdError
from results.experiments.step_timing import MODELS
from results.experiments.zoo import run_program

TIMING = Path(__file__).with_name("step_timing.py")
HEADINGS = [
    "model",
    "edges",
    "kan-md (ms)",
    "upstream (ms)",
    "ratio",
    "kan-md (MiB)",
    "upstream (MiB)",
]
_FEWEST_CALLS = 5


def page(stored: dict) -> str:
    """Text of training.md."""
    cases = stored["cases"]
    atoms = next(iter(cases.values()))["atoms"]
    lines = [
        "# A step of training",
        "",
        "Forward, forces, stresses, the gradient of a loss in all three, and a step of Adam: "
        f"{atoms} atoms of rattled HfO2 in two frames, float32. kan-md: the form that `kan-md "
        "train` takes by itself, products of weights made once per step. upstream: "
        "`training.form: upstream`, the same modules that `nequip-train` calls (of MACE: "
        "mace-torch's own), so that its own step takes as long, the gradient by the positions, "
        "that it takes and nobody uses, included. Both have "
        "the same parameters and take turns step by step; time is the median of "
        f"{stored['calls']} steps ± their standard deviation, a ratio is taken round by round, "
        "memory is what a step adds at most to a process of its own.",
        "",
    ]
    if stored["calls"] < _FEWEST_CALLS:
        lines += ["**A trial run: these are no measurements.**", ""]
    lines += [*markdown_table(HEADINGS, [_row(name, case) for name, case in cases.items()]), ""]
    if not all(case["kernels"] for case in cases.values()):
        lines += ["KAN layers in plain torch: `kan-md build` had not been run.", ""]
    lines += [f"Threads: {stored['threads']}. Machine: {machine_line(stored['machine'])}.", ""]
    lines += [f"Command: `{stored['command']}`", ""]
    return "\n".join(lines)


def _row(name: str, case: dict) -> list[str]:
    times = ["{:.0f} ± {:.0f}".format(*case["ms"][form]) for form in ("fast", "upstream")]
    ratio = "{:.3f} ± {:.3f}".format(*case["ratio"])
    memory = [f"{case['peak'][form]:.0f}" for form in ("fast", "upstream")]
    return [name, f"{case['edges']:,}", *times, ratio, *memory]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--calls", type=int, default=10, help="timed steps per form")
    parser.add_argument("--cells", type=int, default=2, help="cells along z of each frame")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", action="append", choices=MODELS, help="only this one")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    options = parser.parse_args(arguments)
    sizes = ("--calls", options.calls, "--cells", options.cells)
    conditions = {"calls": options.calls, "cells": options.cells, "threads": options.threads}
    kept = options.output / "training.json"
    try:
        check_folder(options.output)
        stored = json.loads(kept.read_text()) if kept.exists() and not options.fresh else {}
        if any(stored.get(name) != value for name, value in conditions.items()):
            stored = {}
        stored |= {**conditions, "command": command_line(), "machine": describe_machine()}
        cases = stored.setdefault("cases", {})
        for name in options.model or MODELS:
            if name not in cases:
                output = run_program(
                    TIMING, name, *sizes, what=f"timing of {name}", threads=options.threads
                )
                cases[name] = json.loads(last_line(output))
                _save(kept, json.dumps(stored, indent=1, ensure_ascii=False))
                _save(options.output / "training.md", page(stored))
    except KanMdError as error:
        Console(stderr=True, highlight=False).print(f"kan-md: error: {error}", markup=False)
        return 2
    return 0


def _save(path: Path, text: str) -> None:
    save_atomically(path, lambda part: part.write_text(text))


if __name__ == "__main__":
    sys.exit(main())
