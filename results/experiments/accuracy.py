"""Errors of Allegro on silver by output block: linear map, MLP, KANs; three seeds.

``python -m results.experiments.accuracy --data FOLDER --output results`` trains every case with
`kan-md train`, deploys it, and writes accuracy.md, accuracy.json and accuracy.png. A second call
does only what is missing. The data set is not part of the project: see --data.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from kan_md.benchmark.machine import machine_line
from kan_md.benchmark.report import markdown_table
from kan_md.config.sizes import SMALL_ALLEGRO
from kan_md.runs import Record
from results.experiments.training import (
    Study,
    deployed,
    fill_missing,
    mean_and_spread,
    results_of,
    save_bars,
)

DATA = "Ag_pbe.xyz"
SEEDS = (1, 2, 3)
READOUTS: dict[str, dict] = {
    "linear": {"kind": "linear"},
    "MLP": {"kind": "mlp"},
    "KAN Gaussian": {"kind": "kan", "basis": "gaussian"},
    "KAN B-spline": {"kind": "kan", "basis": "bspline"},
    "KAN Gaussian, projected": {"kind": "kan", "basis": "gaussian", "projection": 8},
    "KAN B-spline, projected": {"kind": "kan", "basis": "bspline", "projection": 8},
}
MODEL = SMALL_ALLEGRO | {"r_max": 5.0}
EPOCHS = 15
SPLIT = {"train": 400, "val": 50, "test": 51}
ERRORS = {
    "energy MAE (meV/atom)": ("energy_mae", 1e3),
    "force MAE (meV/Å)": ("forces_mae", 1e3),
}


def configuration(readout: str, seed: int, data: Path) -> dict:
    """Content of the YAML file for ``kan-md train``; the split is the same for all seeds."""
    return {
        "data": {"train": str(data / DATA), "split": {**SPLIT, "method": "random", "seed": 0}},
        "model": MODEL,
        "readout": READOUTS[readout],
        "training": {
            "loss": {"energy": 10, "forces": 1, "stress": 100},
            "batch_size": 4,
            "epochs": EPOCHS,
            "optimizer": {"name": "adamw", "lr": 0.01},
            "schedule": {"name": "one_cycle"},
            "seed": seed,
            "device": "cpu",
        },
    }


def run(
    stored: dict, options: argparse.Namespace, console: Console, keep: Callable[[], None]
) -> None:
    """Train what is missing, several cases at a time, and deploy it."""
    cases = {
        _key(readout, seed): configuration(readout, seed, options.data)
        for seed in SEEDS
        for readout in READOUTS
    }

    def finish(key: str, model: Path, record: Record) -> dict:
        deployed(model, what=key)
        return results_of(record)

    fill_missing(cases, stored["cases"], finish, keep=keep, options=options, console=console)


def _key(readout: str, seed: int) -> str:
    return f"{readout}, seed {seed}"


def _done(stored: dict, readout: str) -> list[dict]:
    cases = [stored["cases"].get(_key(readout, seed), {}) for seed in SEEDS]
    return [case for case in cases if "errors" in case]


def save_figure(stored: dict, path: Path) -> None:
    """Test errors as bars from zero, spread over seeds as error bars."""
    panels = {
        f"test {label}": {
            name: mean_and_spread([factor * c["errors"]["test"][key] for c in found])
            for name in READOUTS
            if (found := _done(stored, name))
        }
        for label, (key, factor) in ERRORS.items()
    }
    save_bars(panels, path)


def page(stored: dict) -> str:
    """Text of accuracy.md."""
    rows = []
    for name in READOUTS:
        found = _done(stored, name)
        if not found:
            continue
        row = [name, f"{len(found)} of {len(SEEDS)}", str(found[0]["parameters"])]
        for key, factor in ERRORS.values():
            for part in ("train", "test"):
                mean, spread = mean_and_spread([factor * c["errors"][part][key] for c in found])
                row.append(f"{mean:.2f} ± {spread:.2f}")
        row.append(f"{mean_and_spread([c['seconds'] for c in found])[0]:.0f}")
        rows.append(row)
    heads = ["output block", "seeds", "parameters"]
    heads += [f"{part} {label}" for label in ERRORS for part in ("train", "test")]
    heads += ["training (s)"]
    wrong = [f"{key}: {case['error']}" for key, case in stored["cases"].items() if "error" in case]
    return "\n".join(
        [
            "# What the output block does to the errors of Allegro",
            "",
            "501 structures of silver, 16 to 64 atoms, with PBE energies, forces and stresses (a "
            "public set, not part of the project), 400 for training, 50 for validation, 51 for "
            "testing, the same for all. A small Allegro (l_max 1, 1 layer, 32 scalar and 8 tensor "
            f"features, r_max 5 Å), {EPOCHS} epochs of AdamW for every output block, minutes on a "
            "CPU: the table compares output blocks, it does not show what Allegro can do. "
            "`projected`: a KAN of 8 learned combinations of the scalars (`readout.projection: "
            "8`), the form that costs no more than an MLP once deployed. ± is the standard "
            "deviation over seeds.",
            "",
            "![test errors](accuracy.png)",
            "",
            *(markdown_table(heads, rows) if rows else ["Not trained yet."]),
            "",
            *(f"Not there: {text}\n" for text in wrong),
            f"Training: one thread each, {stored['jobs']} at a time.",
            "",
            f"Machine: {machine_line(stored['machine'])}.",
            "",
            f"Command: `{stored['command']}`",
            "",
        ]
    )


STUDY = Study(
    name="accuracy",
    description=__doc__.splitlines()[0],
    files=[DATA],
    run=run,
    page=page,
    save_figure=save_figure,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
