"""Speed of training: ``python -m results.experiments.training_speed --output results``.

Steps of kan-md's form of a model against upstream's modules, and epochs of kan-md against those of
nequip-train and mace_run_train. Writes training.md, training.json and training.png; a case is
measured once, ``--fresh`` measures all again.
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
from kan_md.benchmark.report import markdown_table
from kan_md.benchmark.store import check_folder
from kan_md.errors import KanMdError
from kan_md.figures import COLOURS, GREY, INK, new_figure, plain_axes, save_figure
from kan_md.files import write_text
from results.experiments.readout_steps import BACKBONES
from results.experiments.step_timing import MODELS
from results.experiments.training_epochs import (
    BATCH,
    BATCHES,
    PROCESSES,
    ROUNDS,
    SHARED,
    TABLES,
    TRAIN,
    VAL,
    measure,
    shared_batches,
)
from results.experiments.zoo import run_program

TIMING = Path(__file__).with_name("step_timing.py")
READOUTS = Path(__file__).with_name("readout_steps.py")
HEADINGS = [
    "model",
    "edges",
    "kan-md (ms)",
    "upstream (ms)",
    "ratio",
    "kan-md (MiB)",
    "upstream (MiB)",
    "products (ms)",
]
EPOCH_HEADINGS = [
    "trainer",
    "s per epoch",
    "times faster",
    "whole program (CPU s)",
    "peak (MiB)",
]
_FEWEST_CALLS = 5
_EPOCHS_OF_PROCESSES = 6
"""At least: some are of five steps."""
_PAPER = {"structures": 9000, "epochs": 1000}
"""Of the HfO2 training; the number of epochs is no published one."""


def page(stored: dict) -> str:
    """Text of training.md."""
    lines = ["# Training", ""]
    tables = stored.get("tables", {})
    if "Allegro" in tables:
        lines += [_papers_training(tables["Allegro"]["epochs"]), ""]
    if stored["calls"] < _FEWEST_CALLS:
        lines += ["**A trial run: these are no measurements.**", ""]
    if tables:
        lines += _epochs(tables)
    if stored["cases"]:
        lines += _steps(stored)
    if stored.get("processes"):
        lines += _processes(stored["processes"])
    if stored.get("readouts"):
        lines += _readouts(stored)
    lines += [f"Machine: {machine_line(stored['machine'])}.", ""]
    lines += [f"Command: `{stored['command']}`", ""]
    return "\n".join(lines)


def _papers_training(epochs: dict) -> str:
    """The first sentence: what the paper's longest training would take."""
    times = {label: entry["seconds"][0] / TRAIN for label, entry in epochs.items()}
    upstream, ours = (
        next(seconds for label, seconds in times.items() if label.endswith(end))
        for end in ("nequip-train", "Gaussian KAN")
    )
    structures, number = _PAPER["structures"], _PAPER["epochs"]
    hours = [structures * number * seconds / 3600 for seconds in (ours, upstream)]
    return (
        f"An epoch of the paper's HfO2 training, {structures:,} structures of 96 atoms, would take "
        f"kan-md {structures * ours / 60:.1f} minutes on one thread of this machine, nequip-train "
        f"{structures * upstream / 3600:.1f} hours: extrapolated from {TRAIN} structures by their "
        "number. The paper gives 7 days on its GPU and, in what is public, no number of epochs; "
        f"{number:,} of them, as in our example of it, would be {hours[0] / 24:.1f} days here, "
        f"{hours[1] / 24:.0f} by nequip-train."
    )


def _epochs(tables: dict) -> list[str]:
    data = next(iter(tables.values()))["data"]
    rows = []
    for table in tables.values():
        control = next(iter(table["epochs"].values()))["seconds"][0]
        for label, entry in table["epochs"].items():
            seconds = "{:.2f} ± {:.2f}".format(*entry["seconds"])
            faster = f"{control / entry['seconds'][0]:.1f}"
            rows.append([label, seconds, faster, f"{entry['cpu']:.0f}", f"{entry['peak']:.0f}"])
    return [
        "## Whole epochs, by the programs that people run",
        "",
        f"Frames: {data}; {TRAIN} for training, {VAL} for validation, {BATCH} per batch, float32, "
        "one thread unless said. nequip-train and mace_run_train are upstream's own programs with "
        "the same hyperparameters, loss in energies, forces and stresses, running average of the "
        "weights; an epoch is the time from one to the next, validation and checkpoint included; "
        "the first is not counted. The trainers of a model take turns, "
        f"{ROUNDS} times; median ± standard deviation over epochs. Peak and CPU time are of the "
        "whole program, start and imports included, of kan-md's first process where there are two. "
        "A MACE of one layer has a linear readout in mace_run_train, whatever is asked for.",
        "",
        *markdown_table(EPOCH_HEADINGS, rows),
        "",
        "![times faster than upstream's program](training.png)",
        "",
    ]


def _steps(stored: dict) -> list[str]:
    cases = stored["cases"]
    atoms = next(iter(cases.values()))["atoms"]
    lines = [
        "## Steps alone",
        "",
        "Forward, forces, stresses, the gradient of a loss in all three, and a step of Adam: "
        f"{atoms} atoms of rattled HfO2 in two frames, float32. kan-md: the form that `kan-md "
        "train` takes by itself. upstream: "
        "`training.form: upstream`, the same modules that `nequip-train` calls (of MACE: "
        "mace-torch's own), the gradient by the positions, "
        "that it takes and nobody uses, included; they profit here from the memory allocator's "
        "settings that kan-md makes, which upstream's programs above do not have. Both have "
        "the same parameters and take turns step by step; time is the median of "
        f"{stored['calls']} steps ± their standard deviation, a ratio is taken round by round, "
        "memory is what a step adds at most to a process of its own. Products: what the matrix "
        "products of the form in plain torch would take at the rate of a large one on this "
        "machine, so a limit for that form; operators need fewer.",
        "",
        *markdown_table(HEADINGS, [_row(name, case) for name, case in cases.items()]),
        "",
    ]
    if not all(case["kernels"] for case in cases.values()):
        lines += ["KAN layers in plain torch: `kan-md build` had not been run.", ""]
    return [*lines, f"Threads: {stored['threads']}.", ""]


def _readouts(stored: dict) -> list[str]:
    labels = list(dict.fromkeys(label for found in stored["readouts"].values() for label in found))
    rows = []
    for label in labels:
        cells = [label]
        for found in stored["readouts"].values():
            entry = found.get(label)
            cells.append(
                "–"
                if entry is None
                else "{:.1f} ms, {:.2f} ± {:.2f}".format(entry["ms"][0], *entry["ratio"])
            )
        rows.append(cells)
    return [
        "## What an output block costs",
        "",
        "Processor time of a step as above, of models that differ in the output block alone and "
        f"take turns, medians of {stored['calls']} steps, and the ratio to the small MLP. In "
        "Allegro the output block acts on edges, and a map of no "
        "functions is multiplied into the layer before it: the small MLP leaves a few columns of "
        "that matrix where a KAN of every scalar needs all of its inputs. An MLP of 64 needs them, "
        "too: what it takes more than the small one are matrices, what a KAN takes more than it "
        "are functions. A KAN of 8 learned combinations (`projection: 8`) saves both.",
        "",
        *markdown_table(["output block", *stored["readouts"]], rows),
        "",
    ]


def _processes(measured: dict) -> list[str]:
    rows = []
    for name, table in measured.items():
        for batch in BATCHES:
            one, two = (table["epochs"][f"{batch} / {n}"]["seconds"] for n in PROCESSES)
            seconds = ["{:.2f} ± {:.2f}".format(*found) for found in (one, two)]
            rows.append([name, str(batch), *seconds, f"{one[0] / two[0]:.2f}"])
    headings = ["model", "frames per step", "1 process (s per epoch)", "2 processes", "faster"]
    return [
        "## Two processes",
        "",
        f"Whole epochs of {TRAIN} frames of 96 atoms as above, Gaussian KAN, float32, one thread "
        "per process. Both processes share every step's frames, so that the numbers stay those of "
        "one; what does not depend on the frames, such as the optimiser, both do.",
        "",
        *markdown_table(headings, rows),
        "",
    ]


def _row(name: str, case: dict) -> list[str]:
    times = ["{:.0f} ± {:.0f}".format(*case["ms"][form]) for form in ("fast", "upstream")]
    ratio = "{:.3f} ± {:.3f}".format(*case["ratio"])
    memory = [f"{case['peak'][form]:.0f}" for form in ("fast", "upstream")]
    return [name, f"{case['edges']:,}", *times, ratio, *memory, f"{case['limit']:.0f}"]


def draw(tables: dict, path: Path) -> None:
    """Bars from zero: how many times faster each epoch of kan-md is than upstream's program's."""
    figure = new_figure(7.6, 0.34 * sum(len(t["epochs"]) - 1 for t in tables.values()) + 0.9)
    axes = figure.add_subplot()
    plain_axes(axes, grid="x")
    labels, ratios, colours = [], [], []
    for table in tables.values():
        control, *others = table["epochs"].items()
        for label, entry in others:
            labels.append(label)
            ratios.append(control[1]["seconds"][0] / entry["seconds"][0])
            colours.append(COLOURS[0] if "kan-md" in label else GREY)
    bars = axes.barh(range(len(labels)), ratios, color=colours)
    axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8, color=INK)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.axvline(1.0, color=INK, linewidth=0.8)
    axes.set_xlim(left=0)
    axes.set_xlabel("times faster than upstream's trainer on one thread, whole epochs")
    save_figure(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--calls", type=int, default=10, help="timed steps per form")
    parser.add_argument("--cells", type=int, default=2, help="cells along z of each frame")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", action="append", choices=MODELS, help="steps of this one alone")
    parser.add_argument("--table", action="append", choices=TABLES, help="only these epochs")
    parser.add_argument("--readouts", action="append", choices=BACKBONES, help="only these")
    parser.add_argument("--processes", action="append", choices=SHARED, help="only these")
    parser.add_argument("--epochs", type=int, default=3, help="of each run, the first not counted")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    options = parser.parse_args(arguments)
    sizes = ("--calls", options.calls, "--cells", options.cells)
    conditions = {
        "calls": options.calls,
        "cells": options.cells,
        "threads": options.threads,
        "epochs": options.epochs,
    }
    everything = not (options.model or options.table or options.readouts or options.processes)
    models = options.model or (MODELS if everything else ())
    chosen = options.table or (TABLES if everything else ())
    readouts = options.readouts or (BACKBONES if everything else ())
    shared = options.processes or (SHARED if everything else ())
    kept = options.output / "training.json"
    try:
        check_folder(options.output)
        stored = json.loads(kept.read_text()) if kept.exists() and not options.fresh else {}
        if any(stored.get(name) != value for name, value in conditions.items()):
            stored = {}
        stored |= {**conditions, "command": command_line(), "machine": describe_machine()}
        cases, tables = stored.setdefault("cases", {}), stored.setdefault("tables", {})
        for name in chosen:
            if name not in tables:
                tables[name] = measure(TABLES[name], epochs=options.epochs)
                _write(stored, options.output)
        for name in models:
            if name not in cases:
                output = run_program(
                    TIMING, name, *sizes, what=f"timing of {name}", threads=options.threads
                )
                cases[name] = json.loads(last_line(output))
                _write(stored, options.output)
        measured = stored.setdefault("processes", {})
        for name in shared:
            if name not in measured:
                epochs = max(options.epochs, _EPOCHS_OF_PROCESSES)
                measured[name] = measure(shared_batches(name), epochs=epochs)
                _write(stored, options.output)
        known = stored.setdefault("readouts", {})
        for name in readouts:
            if name not in known:
                output = run_program(
                    READOUTS, name, *sizes, what=f"readouts of {name}", threads=options.threads
                )
                known[name] = json.loads(last_line(output))
                _write(stored, options.output)
    except KanMdError as error:
        Console(stderr=True, highlight=False).print(f"kan-md: error: {error}", markup=False)
        return 2
    return 0


def _write(stored: dict, folder: Path) -> None:
    text = json.dumps(stored, indent=1, ensure_ascii=False)
    for name, content in (("training.json", text), ("training.md", page(stored))):
        write_text(folder / name, content)
    if stored["tables"]:
        draw(stored["tables"], folder / "training.png")


if __name__ == "__main__":
    sys.exit(main())
