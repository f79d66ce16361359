"""Speed of tensor models: ``python -m kan_md.benchmark.tensor_speed --output results``.

ETGNN with fresh weights on the 72-atom cell of quartz: a training step, and a prediction by the
deployed file. Writes etgnn_speed.md and etgnn_speed.json; a second call measures only what is
missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from kan_md.benchmark.born_charges import MODEL
from kan_md.benchmark.compare import command_line
from kan_md.benchmark.log import last_line
from kan_md.benchmark.machine import describe_machine, machine_line
from kan_md.benchmark.report import markdown_table, save_atomically
from kan_md.benchmark.store import check_folder
from kan_md.benchmark.structures import quartz
from kan_md.benchmark.zoo import READOUTS, run_kan_md, run_module
from kan_md.errors import KanMdError

TIMING = "kan_md.evaluate.tensor_timing"
SIZES: dict[str, dict] = {
    "small": MODEL,
    "published": {
        "backbone": "etgnn",
        "r_max": 6.0,
        "triplet_r_max": 4.0,
        "num_layers": 4,
        "num_features": 128,
        "num_triplet_features": 64,
        "num_radial": 8,
        "num_angular": 8,
    },
}
RATTLE = 0.1  # Å, about the thermal displacement at 300 K


def measure(size: str, readout: str, *, work: Path, calls: int) -> dict:
    """Build one model in a folder of its own, and time it.

    Raises:
        KanMdError: a step failed; the message carries its own.
    """
    folder = work / f"{size}-{readout.replace(' ', '-')}"
    folder.mkdir(parents=True, exist_ok=True)
    config, structure = folder / "model.yaml", folder / "quartz.xyz"
    model, deployed = folder / "model.pth", folder / "model.deployed.pth"
    config.write_text(json.dumps({**SIZES[size], "readout": READOUTS[readout]}))  # JSON is YAML
    atoms = quartz()
    atoms.rattle(RATTLE, seed=1)
    atoms.write(structure)
    what = f"{size}, {readout}"
    for path in (model, deployed):
        path.unlink(missing_ok=True)
    text = run_kan_md("init", config, "--structure", structure, "-o", model, "--json", what=what)
    run_kan_md("deploy", model, "-o", deployed, what=what)
    step, frame = (
        json.loads(last_line(run_module(TIMING, path, structure, "--calls", calls, what=what)))
        for path in (model, deployed)
    )
    return {
        "numbers": json.loads(text)["numbers"],
        "step": [step["ms_per_training_step"], step["ms_error"]],
        "frame": [frame["ms_per_frame"], frame["ms_error"]],
        "threads": frame["threads"],
    }


def page(stored: dict) -> str:
    """Text of etgnn_speed.md."""
    lines = [
        "# Born effective charges: speed",
        "",
        "ETGNN with fresh weights (speed does not depend on training) on 72 atoms of quartz. "
        "Training step: forward, backward and AdamW on one structure. Deployed: TorchScript, "
        "float32, neighbour list included, from Python. Medians ± standard deviations of "
        f"{stored['calls']} calls.",
        "",
    ]
    if stored["calls"] < 10:
        lines += ["**A trial run: these are no measurements.**", ""]
    for size, model in SIZES.items():
        rows = []
        for readout in READOUTS:
            case = stored["cases"].get(f"{size}, {readout}")
            if case is None:
                continue
            if "error" in case:
                rows.append([readout, "", case["error"], ""])
                continue
            times = (f"{median:.1f} ± {spread:.1f}" for median, spread in map(case.get, _TIMES))
            rows.append([readout, str(case["numbers"]), *times])
        heads = ["heads", "numbers", "ms per training step", "ms per frame, deployed"]
        described = ", ".join(f"{key} {value}" for key, value in model.items() if key != "backbone")
        lines += [f"## {size.capitalize()}", "", f"{described}.", ""]
        lines += [*markdown_table(heads, rows), ""]
    threads = next((c["threads"] for c in stored["cases"].values() if "threads" in c), "")
    lines += [f"Threads: {threads}. Machine: {machine_line(stored['machine'])}.", ""]
    lines += [f"Command: `{stored['command']}`", ""]
    return "\n".join(lines)


_TIMES = ("step", "frame")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument(
        "--work", type=Path, default=Path("build/tensor_speed"), help="built models"
    )
    parser.add_argument("--calls", type=int, default=20, help="timed calls per number")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    path = options.output / "etgnn_speed.json"
    try:
        check_folder(options.output)
        check_folder(options.work)
    except KanMdError as error:
        console.print(f"kan-md: error: {error}", markup=False)
        return 2
    stored = json.loads(path.read_text()) if path.exists() and not options.fresh else {}
    cases = stored.get("cases", {})
    if stored.get("calls") != options.calls:
        cases = {}
    for size in SIZES:
        for readout in READOUTS:
            key = f"{size}, {readout}"
            if "step" in cases.get(key, {}):
                continue
            try:
                cases[key] = measure(size, readout, work=options.work, calls=options.calls)
            except KanMdError as error:
                cases[key] = {"error": str(error)}
            console.print(f"{key}: {cases[key]}", markup=False)
            stored = {"cases": cases, "calls": options.calls, "command": command_line()}
            stored["machine"] = describe_machine()
            text = json.dumps(stored, indent=1, ensure_ascii=False)
            save_atomically(path, lambda part, t=text: part.write_text(t))
    save_atomically(options.output / "etgnn_speed.md", lambda part: part.write_text(page(stored)))
    return 1 if any("error" in case for case in cases.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
