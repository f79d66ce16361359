"""Born charges of real crystals by ETGNN, KAN heads against MLP heads.

``python -m results.experiments.born_charges --data FOLDER --output results`` trains every case with
`kan-md train`, deploys it, and writes etgnn.md, etgnn.json and etgnn.png. A second call does only
what is missing. The data sets are not part of the project: see --data.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from rich.console import Console

from kan_md.benchmark.log import last_line
from kan_md.benchmark.machine import machine_line
from kan_md.benchmark.report import markdown_table
from kan_md.data.splitting import split_indices
from kan_md.runs import Record
from results.experiments.training import (
    DEPLOYED,
    Study,
    deployed,
    fill_missing,
    mean_and_spread,
    results_of,
    run_of_case,
    save_bars,
    store_of,
)
from results.experiments.zoo import run_program

SEEDS = (1, 2, 3)
TIMING = Path(__file__).with_name("tensor_timing.py")
READOUTS: dict[str, dict] = {
    "MLP": {"kind": "mlp"},
    "KAN Gaussian": {"kind": "kan", "basis": "gaussian"},
    "KAN B-spline": {"kind": "kan", "basis": "bspline"},
}
MODEL = {
    "backbone": "etgnn",
    "r_max": 4.5,
    "triplet_r_max": 3.4,
    "num_layers": 2,
    "num_features": 32,
    "num_triplet_features": 16,
    "num_radial": 6,
    "num_angular": 4,
}
BATCH = 2
SPLIT = {"train": 0.6, "val": 0.2, "test": 0.2}


@dataclass(frozen=True, kw_only=True)
class Crystal:
    """A data set and how long to learn it.

    Attributes:
        name: in tables.
        file: in the data folder.
        blocks: consecutive frames stay together; each block gives all three parts.
        epochs: for every model.
        model: what differs from MODEL.
    """

    name: str
    file: str
    blocks: int
    epochs: int
    model: dict


CRYSTALS = (
    Crystal(name="SiO2", file="SiO2_bec.xyz", blocks=2, epochs=40, model={}),
    Crystal(
        name="BaTiO3",
        file="BaTiO3_bec.xyz",
        blocks=1,
        epochs=20,
        model={"num_layers": 1, "triplet_r_max": 3.2},
    ),
)


def configuration(crystal: Crystal, readout: str, seed: int, data: Path) -> dict:
    """Content of the YAML file for ``kan-md train``."""
    return {
        "data": {
            "train": str(data / crystal.file),
            "split": {**SPLIT, "method": "block", "blocks": crystal.blocks},
        },
        "model": MODEL | crystal.model,
        "readout": {**READOUTS[readout], "sites": "heads"},
        "targets": [{"name": "bec"}],
        "training": {
            "batch_size": BATCH,
            "epochs": crystal.epochs,
            "optimizer": {"name": "adamw", "lr": 0.01},
            "schedule": {"name": "one_cycle"},
            "seed": seed,
            "device": "cpu",
        },
    }


def finish(key: str, model: Path, record: Record) -> dict:
    """Deploy a trained model; what is kept of it."""
    deployed(model, what=key)
    found = results_of(record)
    steps = found["epochs"] * -(-found["structures"]["train"] // BATCH)
    return {**found, "ms_per_training_step": 1e3 * found["seconds"] / steps}


def baseline(crystal: Crystal, data: Path) -> float:
    """Test error, e, of the mean tensor of each species over the training frames."""
    frames = ase.io.read(data / crystal.file, ":")
    parts = split_indices(len(frames), SPLIT, method="block", blocks=crystal.blocks)
    train, test = ([frames[i] for i in parts[part]] for part in ("train", "test"))
    error = []
    for symbol in sorted(set(frames[0].symbols)):
        known = np.concatenate([atoms.arrays["bec"][atoms.symbols == symbol] for atoms in train])
        asked = np.concatenate([atoms.arrays["bec"][atoms.symbols == symbol] for atoms in test])
        error.append(np.abs(asked - known.mean(0)))
    return float(np.concatenate(error).mean())


def time_deployed(stored: dict, *, data: Path, work: Path) -> None:
    """Time one deployed file per readout, those of a crystal in turns, on a machine that rests."""
    for crystal in CRYSTALS:
        cases = {
            readout: case
            for readout in READOUTS
            if "errors" in (case := stored["cases"].get(_key(crystal, readout, SEEDS[0]), {}))
        }
        if all("timing" in case for case in cases.values()):
            continue
        store = store_of(work)
        files = []
        for readout in cases:
            content = configuration(crystal, readout, SEEDS[0], data)
            run = run_of_case(_key(crystal, readout, SEEDS[0]), content)
            files.append(store.folder(run) / DEPLOYED)
        text = run_program(
            *(TIMING, *files, data / crystal.file),
            what=f"timing files of {crystal.name}",
        )
        times = json.loads(last_line(text))["ms"]
        for case, mine in zip(cases.values(), times, strict=True):
            case["timing"] = {"ms_per_frame": statistics.median(mine)}


def run(
    stored: dict, options: argparse.Namespace, console: Console, keep: Callable[[], None]
) -> None:
    """Train what is missing, several cases at a time, then time the deployed files."""
    cases = {
        _key(crystal, readout, seed): configuration(crystal, readout, seed, options.data)
        for crystal in CRYSTALS
        for seed in SEEDS
        for readout in READOUTS
    }
    fill_missing(cases, stored["cases"], finish, keep=keep, options=options, console=console)
    stored["baseline"] = {crystal.name: baseline(crystal, options.data) for crystal in CRYSTALS}
    time_deployed(stored, data=options.data, work=options.work)


def _key(crystal: Crystal, readout: str, seed: int) -> str:
    return f"{crystal.name}, {readout}, seed {seed}"


def _over_seeds(
    stored: dict, crystal: Crystal, readout: str, pick: Callable[[dict], float]
) -> tuple[float, float] | None:
    """Mean and standard deviation, None where nothing is there."""
    cases = [stored["cases"].get(_key(crystal, readout, seed), {}) for seed in SEEDS]
    values = [pick(case) for case in cases if "errors" in case]
    return mean_and_spread(values) if values else None


def _test_error(case: dict) -> float:
    return case["errors"]["test"]["bec_mae"]


def save_figure(stored: dict, path: Path) -> None:
    """Test errors as bars from zero, spread over seeds as error bars."""
    panels = {}
    for crystal in CRYSTALS:
        found = {name: _over_seeds(stored, crystal, name, _test_error) for name in READOUTS}
        panels[f"{crystal.name}: test MAE of Born charges (e)"] = {
            name: value for name, value in found.items() if value is not None
        }
    save_bars(panels, path)


def page(stored: dict) -> str:
    """Text of etgnn.md."""
    machine = stored["machine"]
    lines = [
        "# Born effective charges: ETGNN with KAN and MLP heads",
        "",
        "Two public sets of first-principles Born charges (not part of the project), 72 atoms of "
        "quartz at 300 and 600 K and 135 atoms of BaTiO3. The frames are consecutive: training, "
        "validation and test sets are blocks of consecutive frames, 60 : 20 : 20, because a random "
        "split of one trajectory puts next neighbours in time on both sides. ± is the standard "
        "deviation over seeds. The baseline predicts the mean tensor of each species. The "
        "budget is small, minutes on a CPU, the same number of epochs for every readout; the "
        "paper's numbers come from a larger network, another set and hours of a GPU.",
        "",
        "![test errors](etgnn.png)",
        "",
    ]
    for crystal in CRYSTALS:
        reference = stored["baseline"][crystal.name]
        rows = []
        for readout in READOUTS:
            parts = [
                _over_seeds(stored, crystal, readout, lambda c, p=p: c["errors"][p]["bec_mae"])
                for p in ("train", "val", "test")
            ]
            if parts[0] is None:
                continue
            seconds = _over_seeds(stored, crystal, readout, lambda c: c["seconds"])
            step = _over_seeds(stored, crystal, readout, lambda c: c["ms_per_training_step"])
            first = stored["cases"][_key(crystal, readout, SEEDS[0])]
            timing = first.get("timing")
            trained = [_key(crystal, readout, seed) in stored["cases"] for seed in SEEDS]
            rows.append(
                [
                    readout,
                    f"{sum(trained)} of {len(SEEDS)}",
                    str(first.get("parameters", "")),
                    *(f"{mean:.4f} ± {spread:.4f}" for mean, spread in parts),
                    f"{reference / parts[2][0]:.1f}",
                    f"{seconds[0]:.0f}",
                    f"{step[0]:.0f}",
                    f"{timing['ms_per_frame']:.1f}" if timing else "",
                ]
            )
        heads = [
            *(
                "heads",
                "seeds",
                "parameters",
                "train (e)",
                "val (e)",
                "test (e)",
                "baseline / test",
            ),
            *("training (s)", "ms per step", "ms per frame, deployed"),
        ]
        lines += [
            f"## {crystal.name}",
            "",
            f"MAE over components. Mean-per-species baseline: {reference:.4f} e. "
            f"{crystal.epochs} epochs, batches of {BATCH}.",
            "",
            *(markdown_table(heads, rows) if rows else ["Not trained yet."]),
            "",
        ]
    wrong = [f"{key}: {case['error']}" for key, case in stored["cases"].items() if "error" in case]
    lines += [f"Not there: {text}\n" for text in wrong]
    lines += [
        "Training: one thread each, "
        f"{stored['jobs']} at a time. Deployed: TorchScript, float32, one thread, neighbour list "
        "included.",
        "",
        *([stored["remark"], ""] if "remark" in stored else []),
        f"Machine: {machine_line(machine)}.",
        "",
        f"Command: `{stored['command']}`",
        "",
    ]
    return "\n".join(lines)


STUDY = Study(
    name="etgnn",
    description=__doc__.splitlines()[0],
    files=[crystal.file for crystal in CRYSTALS],
    run=run,
    page=page,
    save_figure=save_figure,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
