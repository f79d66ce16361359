"""Speed of KAN layers in training: ``python -m results.experiments.kan_layer --output results``.

A layer alone against an MLP of the same inputs. Writes kan_layer.md and kan_layer.json.
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
from results.experiments.zoo import run_program

TIMING = Path(__file__).with_name("layer_timing.py")
NUM_INPUTS = 64
STEPS = {
    "step": "Forward and backward",
    "force_step": "Forward, forces and backward through both",
}


def page(stored: dict) -> str:
    """Text of kan_layer.md."""
    lines = [
        "# A KAN layer in training",
        "",
        f"One readout alone, {stored['points']} x {NUM_INPUTS} -> 1, {stored['dtype']}, with "
        f"gradients by inputs and parameters, from Python. MLP: {NUM_INPUTS} -> {NUM_INPUTS // 2} "
        "-> 1. KAN: 8 basis functions, base function and learned gain. C++: the kernels of "
        "`kan-md build`; torch: what runs without them. The functions take turns call by call; "
        "time is the median of "
        f"{stored['calls']} calls ± their standard deviation; a ratio is taken round by round.",
        "",
    ]
    if stored["calls"] < 10:
        lines += ["**A trial run: these are no measurements.**", ""]
    for name, title in STEPS.items():
        rows = [
            [label, "{:.2f} ± {:.2f}".format(*case["ms"]), "{:.2f} ± {:.2f}".format(*case["ratio"])]
            for label, case in stored[name].items()
        ]
        lines += [f"## {title}", "", *markdown_table(["readout", "ms", "ratio to MLP"], rows), ""]
    lines += [f"Threads: {stored['threads']}. Machine: {machine_line(stored['machine'])}.", ""]
    lines += [f"Command: `{stored['command']}`", ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--points", type=int, default=25000, help="rows of the input")
    parser.add_argument("--calls", type=int, default=50, help="timed calls per number")
    options = parser.parse_args(arguments)
    sizes = ("--points", options.points, "--inputs", NUM_INPUTS, "--calls", options.calls)
    try:
        check_folder(options.output)
        found = json.loads(last_line(run_program(TIMING, *sizes, what="timing of layers")))
    except KanMdError as error:
        Console(stderr=True, highlight=False).print(f"kan-md: error: {error}", markup=False)
        return 2
    stored = {"points": options.points, "calls": options.calls, "command": command_line()}
    stored |= {**found, "machine": describe_machine()}
    text = json.dumps(stored, indent=1, ensure_ascii=False)
    save_atomically(options.output / "kan_layer.json", lambda part: part.write_text(text))
    save_atomically(options.output / "kan_layer.md", lambda part: part.write_text(page(stored)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
