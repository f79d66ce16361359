"""What solving the readout exactly gives to trained models: errors of KAN and controls.

``python -m results.experiments.why_kan RUN ... --output results`` takes folders of `kan-md train`,
solves each model's readout for its own training set (every so many structures of it), lets its
validation set choose the penalties, and compares on its test set, which neither has seen. One entry
for each run goes to why_kan.json as it comes; why_kan.md is made of what is there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from kan_md.benchmark.machine import describe_machine, machine_line
from kan_md.benchmark.report import markdown_table, save_atomically
from kan_md.benchmark.store import check_folder
from kan_md.config import load_config
from kan_md.errors import KanMdError
from kan_md.evaluate.evaluation import evaluate_file
from kan_md.model.checkpoint import load_checkpoint, save_checkpoint
from kan_md.solve.refit import refit
from kan_md.solve.uncertainty import Uncertainty
from kan_md.train.preparation import prepare_data

ERRORS = {
    "energy MAE (meV/atom)": "energy_mae",
    "force MAE (meV/Å)": "forces_mae",
    "force RMSE (meV/Å)": "forces_rmse",
    "stress MAE (meV/Å³)": "stress_mae",
}


def name_of(config) -> str:
    """What stands at the output, in a few words."""
    readout = config.readout
    if readout.kind == "mlp":
        return f"MLP {list(readout.hidden) or ''}".strip()
    if readout.kind != "kan":
        return readout.kind
    fitted = "grids fitted" if readout.fit_grid is not None else "grids from -2 to 2"
    base = "" if readout.base == "silu" else ", no SiLU beside"
    return f"KAN, {readout.basis}, {fitted}{base}"


def measure(run: Path, every: int) -> dict:
    """One run: errors on its test set before and after, and what uncertainties say of them.

    Args:
        run: folder of `kan-md train`.
        every: one in so many structures of the training and validation sets is taken.
    """
    config = load_config(run / "config.yaml")
    frames = prepare_data(config).frames
    checkpoint = load_checkpoint(run / "model.pth")
    start = time.process_time()
    found = refit(checkpoint, frames["train"][::every], frames["val"][::every])
    seconds = time.process_time() - start
    with tempfile.TemporaryDirectory() as folder:
        after = evaluate_file(
            save_checkpoint(found.checkpoint, Path(folder) / "refitted.pth"), frames["test"]
        )
    before = evaluate_file(run / "model.pth", frames["test"])
    return {
        "readout": name_of(config),
        "data": Path(config.data.train[0]).stem,
        "backbone": config.model.backbone,
        "seed": config.training.seed,
        "epochs": config.training.epochs,
        "structures": {**found.counts, "test": len(frames["test"])},
        "unknowns": found.size,
        "ridge": found.solution and found.solution.ridge,
        "smoothness": found.solution and found.solution.smoothness,
        "cpu_seconds": round(seconds, 1),
        "before": {key: before.errors.get(key) for key in ERRORS.values()},
        "after": {key: after.errors.get(key) for key in ERRORS.values()},
        "uncertainty": correlations(found.checkpoint, after, step=max(1, 2 * every)),
    }


def correlations(checkpoint, evaluation, *, step: int) -> dict:
    """Spearman's rank correlation of errors and standard deviations, and their ratio."""
    sure = Uncertainty(checkpoint)
    energies, forces = [], []
    for index in range(0, len(evaluation.frames), step):
        atoms = evaluation.frames[index]
        spread = sure(atoms)
        error = {
            name: evaluation.predictions[name][index] - evaluation.labels[name][index]
            for name in ("energy", "forces")
        }
        energies.append((abs(float(error["energy"].item())) / len(atoms), spread["energy_std"]))
        size = np.linalg.norm(error["forces"], axis=1)
        forces += zip(size, spread["forces_std"], strict=True)
    result = {"structures": len(energies)}
    for name, pairs in (("energy", energies), ("forces", forces)):
        error, spread = np.array(pairs).T
        result[name] = float(spearmanr(error, spread).statistic)
        result[f"{name}_ratio"] = float(np.sqrt(np.mean(error**2) / np.mean(spread**2)))
    return result


def page(stored: dict) -> str:
    """Text of why_kan.md."""
    lines = ["# Why a KAN: the readout solved exactly", "", *_HOW, ""]
    entries = list(stored["runs"].values())
    for data in sorted({entry["data"] for entry in entries}):
        own = [entry for entry in entries if entry["data"] == data]
        lines += [f"## {data}", ""]
        lines += [*markdown_table(["readout", "seeds", "unknowns", *ERRORS], _rows(own)), ""]
        lines += [*_uncertainties(own), ""]
    lines += [*_READING, *_FAILED, "", f"Machine: {stored['machine']}; one thread."]
    return "\n".join([*lines, "", "Made by `python -m results.experiments.why_kan`.", ""])


def _rows(entries: list[dict]) -> list[list[str]]:
    rows = []
    keys = {(entry["readout"], entry["epochs"]) for entry in entries}
    for readout, epochs in sorted(keys):
        own = [e for e in entries if (e["readout"], e["epochs"]) == (readout, epochs)]
        own.sort(key=lambda entry: entry["seed"])
        seeds = ", ".join(str(entry["seed"]) for entry in own)
        row = [f"{readout}, {epochs} epochs", seeds, str(own[0]["unknowns"])]
        for error in ERRORS.values():
            both = [[1e3 * e[when][error] for e in own] for when in ("before", "after")]
            each = ["/".join(f"{v:.3g}" for v in values) for values in both]
            means = [statistics.mean(values) for values in both]
            row.append(f"{means[0]:.3g} → {means[1]:.3g} ({each[0]} → {each[1]})")
        rows.append(row)
    return rows


def _uncertainties(entries: list[dict]) -> list[str]:
    lines = [
        "Error against the standard deviation of the closed form, test set after the solve:",
        "",
    ]
    headings = [
        "readout",
        "seed",
        "rank correlation, energies",
        "forces",
        "error/σ, energies",
        "forces",
    ]
    rows = []
    for entry in sorted(entries, key=lambda e: (e["readout"], e["epochs"], e["seed"])):
        u = entry["uncertainty"]
        numbers = [u["energy"], u["forces"], u["energy_ratio"], u["forces_ratio"]]
        cells = [f"{number:.2f}" for number in numbers]
        rows.append([f"{entry['readout']}, {entry['epochs']} epochs", str(entry["seed"]), *cells])
    return [*lines, *markdown_table(headings, rows)]


_HOW = (
    "One-layer MACE (16 scalar features, l_max 3, correlation 3, 5 Å), trained for as long as the "
    "table says, which is short; then `kan-md refit` on every second structure of the run's own "
    "training set, penalties chosen by every second one of its validation set. Errors are those "
    "of the test set, before → after, means over the seeds and each of them. Backbone, grids and "
    "gains are the trained ones: what changes is the last layer of the readout alone, and the "
    "deployed model costs what it did.",
)
_READING = (
    "## What can be read from it, and what not",
    "",
    "- Gradient descent leaves a KAN's last layer far from its minimum in runs of this length. Of "
    "the four KAN runs first measured, forces and stress came out better (MAE) in all and energies "
    "in three, on structures that neither fitted nor chose anything. Root mean squares of forces, "
    "which a few strained structures decide, rose in one: beyond what the fit has seen a free "
    "function goes where it likes. A linear readout has as many unknowns as densities: what it "
    "gained in energies it paid in forces.",
    "- Runs are short and models few, so this says what a refit does to such models, not yet what "
    "it leaves of the difference between readouts that were trained until nothing moves. An MLP's "
    "last layer can be solved by the same command and is not in the table.",
    "- These runs took the penalties with the smallest validation loss. Since, of all within 1 % "
    "of it the solution nearest to the trained one is taken.",
    "- σ of forces ranks atoms by their errors, in every run about as well (0.73 to 0.81). σ of "
    "energies does not rank structures; it is of use as a mean alone. error/σ of forces is far "
    "from 1 in the two runs in which a few structures have errors far beyond all others: the "
    "validation set, which calibrates σ, may have none like them. No "
    "committee was trained to compare.",
    "",
)
_FAILED = (
    "## What did not help",
    "",
    "- Grids that follow their inputs while training (`readout.fit_grid.every`). After a run on "
    "silver 6 of 16 grids held at most 2 % of their inputs, so this looked like the cheapest gain, "
    "and moving the grids of that trained model, functions kept by least squares in value and "
    "slope, did not raise its errors. But runs in which grids followed every epoch came out far "
    "worse (Ag_pbe, 16 epochs, base none, force MAE 32.9 and 42.7 meV/Å without, 108.9 and 58.2 "
    "with, "
    "seeds 1 and 2; every fourth epoch 54.1, seed 1). The optimiser's reset made it worse at first "
    "(one step of one learning rate in all coefficients: 23 eV per structure); keeping the size of "
    "gradients was not enough. Off by default.",
    "- Moving the grids of a trained model onto its inputs before the solve (Ag_pbe, seed 1, 50 "
    "structures): energies 4.0 → 2.6 instead of 3.0 meV/atom, but force RMSE 82.7 → 123.4 instead "
    "of 53.7 meV/Å: a few strained structures lie beyond grids that fit the others tightly.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--every", type=int, default=2, help="one in so many structures")
    parser.add_argument("--output", type=Path, default=Path("results"))
    options = parser.parse_args(arguments)
    path = options.output / "why_kan.json"
    try:
        check_folder(options.output)
        stored = json.loads(path.read_text()) if path.exists() else {"runs": {}}
        stored["machine"] = machine_line(describe_machine())
        for run in options.runs:
            entry = measure(run, options.every)
            key = ", ".join(
                [
                    *(entry[word] for word in ("data", "backbone", "readout")),
                    f"{entry['epochs']} epochs",
                    f"seed {entry['seed']}",
                ]
            )
            stored["runs"][key] = entry
            sys.stdout.write(f"{key}: {json.dumps(entry)}\n")
            sys.stdout.flush()
            _write(stored, options.output)
    except KanMdError as error:
        sys.stderr.write(f"kan-md: error: {error}\n")
        return 2
    _write(stored, options.output)
    return 0


def _write(stored: dict, output: Path) -> None:
    content, text = json.dumps(stored, indent=1) + "\n", page(stored)
    save_atomically(output / "why_kan.json", lambda part: part.write_text(content))
    save_atomically(output / "why_kan.md", lambda part: part.write_text(text))


if __name__ == "__main__":
    sys.exit(main())
