"""Table 4: time per step and memory of each row in LAMMPS, by ``kan-md benchmark``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from kan_md.benchmark.structures import silver
from kan_md.data.write import write_frames
from kan_md.errors import KanMdError
from kan_md.files import write_text
from kan_md.reproduce.data import Source
from kan_md.reproduce.plan import Plan, chosen_rows
from kan_md.reproduce.tables import Row, Table
from kan_md.runs.identity import digest
from kan_md.runs.own_command import run_kan_md

STEPS = 1000
_SCALE = 1e-3
"""eV. Forces of fresh weights mean nothing; at this size the crystal stays what it is, so that all
rows see the same number of neighbours. Speed does not depend on training."""
_ELEMENT = "Ag"


def time_rows(
    table: Table, labels: list[str], plan: Plan, folder: Path, console: Console
) -> dict[str, Any]:
    """Build, deploy and time the rows that are not timed yet, side by side in one run.

    Args:
        table: whose rows.
        labels: of the rows; all where there are none.
        plan: says the size and the device.
        folder: of models and of the result.
        console: told what is done.

    Returns:
        The report of ``kan-md benchmark --json``, or ``failure`` with the reason.
    """
    models = {row.label: _model(row, plan) for row in chosen_rows(table, labels)}
    base = folder / f"{table.name}-{digest({'models': models, 'device': plan.device})}"
    report = base / "timing" / "report.json"
    if not report.exists():
        base.mkdir(parents=True, exist_ok=True)
        try:
            _time(models, base, plan.device, console)
        except KanMdError as error:
            return {"failure": str(error)}
    return json.loads(report.read_text())


def _model(row: Row, plan: Plan) -> dict[str, Any]:
    """The keys of a model for ``kan-md init``."""
    content = plan.content(row, Source({"train": "-"}, ""))
    return {**content["model"], "per_type_energy_scales": _SCALE, "readout": content["readout"]}


def _time(models: dict[str, Any], base: Path, device: str, console: Console) -> None:
    structure = base / "structure.xyz"
    write_frames([silver()], structure, overwrite=True)
    on_device = ("--device", "cuda") if device == "cuda" else ()
    deployed = []
    for number, (label, model) in enumerate(models.items()):
        config, file = base / f"{number}.yaml", base / f"{number}.deployed.pth"
        checkpoint = base / f"{number}.pth"
        write_text(config, yaml.safe_dump(model, sort_keys=False))
        if not checkpoint.exists():
            console.print(f"table 4: building {label}", markup=False)
            init = ("init", config, "--structure", structure, "--seed", 1, "-o", checkpoint)
            run_kan_md(*init, what=f"building {label}")
        if not file.exists():
            run_kan_md("deploy", checkpoint, "-o", file, *on_device, what=f"deploying {label}")
        deployed.append(f"{label}={file}")
    console.print("table 4: running LAMMPS", markup=False)
    timing = ("--steps", STEPS, "--output", base / "timing")
    run_kan_md("benchmark", *deployed, *timing, what="timing in LAMMPS")
