"""Speed of tensor models: ``python -m results.experiments.tensor_speed --output results``.

ETGNN with fresh weights on the 72-atom cell of quartz: a training step, and predictions by files
deployed with and without passes. Writes etgnn_speed.md and etgnn_speed.json; a second call measures
only what is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from kan_md.benchmark.compare import command_line
from kan_md.benchmark.log import last_line
from kan_md.benchmark.machine import describe_machine, machine_line
from kan_md.benchmark.report import markdown_table, save_atomically
from kan_md.benchmark.statistics import median_and_spread
from kan_md.benchmark.store import check_folder
from kan_md.benchmark.structures import quartz
from kan_md.errors import KanMdError
from results.experiments.born_charges import MODEL, TIMING
from results.experiments.zoo import READOUTS, run_kan_md, run_program

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
DEPLOYMENTS: dict[str, tuple[str, ...]] = {"plain": ("--passes", "none"), "default": ()}
"""Options of ``kan-md deploy``."""
CONTROL = "MLP"
RATTLE = 0.1  # Å, about the thermal displacement at 300 K


def measure_step(size: str, readout: str, *, work: Path, calls: int) -> dict:
    """Build and deploy one model in a folder of its own, and time its training step.

    Raises:
        KanMdError: a step failed; the message carries its own.
    """
    folder = _folder(work, size, readout)
    folder.mkdir(parents=True, exist_ok=True)
    config, structure = folder / "model.yaml", _structure(work)
    model = folder / "model.pth"
    config.write_text(json.dumps({**SIZES[size], "readout": READOUTS[readout]}))  # JSON is YAML
    atoms = quartz()
    atoms.rattle(RATTLE, seed=1)
    atoms.write(structure)
    what = f"{size}, {readout}"
    text = run_kan_md(
        *("init", config, "--structure", structure, "-o", model, "--overwrite", "--json"),
        what=what,
    )
    for name, options in DEPLOYMENTS.items():
        file = folder / f"{name}.deployed.pth"
        run_kan_md("deploy", model, "-o", file, "--overwrite", *options, what=what)
    step = json.loads(last_line(run_program(TIMING, model, structure, "--calls", calls, what=what)))
    return {
        "numbers": json.loads(text)["numbers"],
        "step": median_and_spread(step["ms"][0]),
        "threads": step["threads"],
    }


def measure_frames(size: str, readouts: Sequence[str], *, work: Path, calls: int) -> dict:
    """Time all deployed files of a size in turns.

    Returns:
        By readout and deployment: median and standard deviation, ms, and of the ratio to the
        :data:`CONTROL` of the same deployment and the same turn, where that is among them.

    Raises:
        KanMdError: timing failed.
    """
    keys = [(readout, name) for readout in readouts for name in DEPLOYMENTS]
    files = [_folder(work, size, readout) / f"{name}.deployed.pth" for readout, name in keys]
    text = run_program(
        TIMING, *files, _structure(work), "--calls", calls, what=f"{size}, deployed files"
    )
    times = dict(zip(keys, json.loads(last_line(text))["ms"], strict=True))
    found: dict[str, dict] = {readout: {} for readout in readouts}
    for (readout, name), mine in times.items():
        found[readout][name] = median_and_spread(mine)
        control = times.get((CONTROL, name))
        if control is not None:
            found[readout][name] += median_and_spread(
                [t / c for t, c in zip(mine, control, strict=True)]
            )
    return found


def _folder(work: Path, size: str, readout: str) -> Path:
    return work / f"{size}-{readout.replace(' ', '-')}"


def _structure(work: Path) -> Path:
    return work / "quartz.xyz"


def page(stored: dict) -> str:
    """Text of etgnn_speed.md."""
    lines = [
        "# Born effective charges: speed",
        "",
        "ETGNN with fresh weights (speed does not depend on training) on 72 atoms of quartz. "
        "Training step: forward, backward and AdamW on one structure. Deployed: TorchScript, "
        "float32, neighbour list included, from Python, without passes and as deployed by "
        f"default; the files of one size take turns, and ratios to the {CONTROL} are of calls in "
        f"the same turn. Medians ± standard deviations of {stored['calls']} calls.",
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
                rows.append([readout, "", case["error"], *[""] * 4])
                continue
            rows.append([readout, str(case["numbers"]), _plus_minus(case["step"], 1)])
            for name in DEPLOYMENTS:
                frame = case.get(name, [])
                rows[-1] += [_plus_minus(frame[:2], 1), _plus_minus(frame[2:], 2)]
        heads = ["heads", "numbers", "ms per training step"]
        heads += [
            "ms per frame, no passes",
            f"÷ {CONTROL}",
            "ms per frame, default",
            f"÷ {CONTROL}",
        ]
        described = ", ".join(f"{key} {value}" for key, value in model.items() if key != "backbone")
        lines += [f"## {size.capitalize()}", "", f"{described}.", ""]
        lines += [*markdown_table(heads, rows), ""]
    threads = next((c["threads"] for c in stored["cases"].values() if "threads" in c), "")
    lines += [f"Threads: {threads}. Machine: {machine_line(stored['machine'])}.", ""]
    lines += [f"Command: `{stored['command']}`", ""]
    return "\n".join(lines)


def _plus_minus(values: Sequence[float], digits: int) -> str:
    return f"{values[0]:.{digits}f} ± {values[1]:.{digits}f}" if values else ""


def run_size(
    size: str, cases: dict, *, work: Path, calls: int, keep: Callable[[str], None]
) -> None:
    """Measure what is missing of a size; ``cases`` is by size and readout."""
    keys = {readout: f"{size}, {readout}" for readout in READOUTS}
    if all(name in cases.get(key, {}) for key in keys.values() for name in DEPLOYMENTS):
        return
    for readout, key in keys.items():
        files = [_folder(work, size, readout) / f"{name}.deployed.pth" for name in DEPLOYMENTS]
        if "step" not in cases.get(key, {}) or not all(file.exists() for file in files):
            try:
                cases[key] = measure_step(size, readout, work=work, calls=calls)
            except KanMdError as error:
                cases[key] = {"error": str(error)}
            keep(key)
    built = [readout for readout, key in keys.items() if "step" in cases[key]]
    try:
        frames = measure_frames(size, built, work=work, calls=calls)
    except KanMdError as error:
        frames = {readout: {"error": str(error)} for readout in built}
    for readout in built:
        cases[keys[readout]] |= frames[readout]
        keep(keys[readout])


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
    stored = {"cases": cases, "calls": options.calls, "command": command_line()}
    stored["machine"] = describe_machine()

    def keep(key: str) -> None:
        console.print(f"{key}: {cases[key]}", markup=False)
        text = json.dumps(stored, indent=1, ensure_ascii=False)
        save_atomically(path, lambda part: part.write_text(text))

    for size in SIZES:
        run_size(size, cases, work=options.work, calls=options.calls, keep=keep)
    save_atomically(options.output / "etgnn_speed.md", lambda part: part.write_text(page(stored)))
    return 1 if any("error" in case for case in cases.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
