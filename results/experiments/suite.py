"""The published timings: ``python -m results.experiments.suite --output results`` (``make bench``).

Each section writes NAME.md, NAME.json and figures. Every finished case is in the JSON at once; a
second call measures only what is missing, so a run can be interrupted, and what failed is tried
again. A case that fails is reported as such and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console

from kan_md.benchmark.compare import Conditions, compare
from kan_md.benchmark.log import last_line
from kan_md.benchmark.models import Entry, find_control
from kan_md.benchmark.progress import show_progress
from kan_md.benchmark.store import check_folder, save_atomically
from kan_md.errors import KanMdError
from results.experiments.cases import SECTIONS, Case, Section
from results.experiments.pages import write_page
from results.experiments.zoo import MACE, READOUTS, Model, build, run_program

MACE_TORCH = Path(__file__).with_name("mace_torch.py")
PROFILE = Path(__file__).with_name("operator_profile.py")
TETHER = 5.0  # eV/Å²; keeps fresh models' crystals in place, see zoo.ENERGY_SCALE
RATTLE = 0.1  # Å, about the thermal displacement at 300 K


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Command line of the suite.

    Attributes:
        output: folder of the pages.
        work: folder of built models.
        seconds: timed seconds per model and case.
        steps: most steps per model and case.
        quick: a smoke test of the suite, not a measurement.
        device: cpu or cuda.
        jobs: models that are built at a time, before anything is timed.
    """

    output: Path
    work: Path
    seconds: float
    steps: int
    quick: bool
    device: str
    jobs: int


def build_all(section: Section, settings: Settings, console: Console) -> None:
    """Build the models of the cases that are missing, several at a time.

    A model that cannot be built, for whatever reason, is left to its case, which reports it.
    """
    stored = _load(settings.output / f"{section.name}.json", settings)
    wanted = [
        _on_device(model, settings.device)
        for case in section.cases
        if "report" not in stored["cases"].get(case.name, {})
        for model in case.models
    ]
    # Models that share a checkpoint are built in one go.
    groups: dict[str, list[Model]] = {}
    for model in wanted:
        groups.setdefault(json.dumps([model.config, model.element, model.seed]), []).append(model)

    def build_group(models: list[Model]) -> None:
        for model in models:
            with suppress(Exception):
                build(model, settings.work)

    status = console.status(f"{section.name}: building {len(groups)} models")
    with status, ThreadPoolExecutor(settings.jobs) as pool:
        list(pool.map(build_group, groups.values()))


def run_section(section: Section, settings: Settings, console: Console) -> bool:
    """Measure what is missing of a section and write its page.

    Returns:
        Whether every case is there.
    """
    if settings.jobs > 1:
        build_all(section, settings, console)
    stored = _load(settings.output / f"{section.name}.json", settings)
    for case in section.cases:
        if "report" in stored["cases"].get(case.name, {}):
            console.print(f"{section.name}: {case.title}: already there", style="dim")
            continue
        console.print(f"{section.name}: {case.title}")
        stored["cases"][case.name] = _attempt(
            lambda c=case: _measure(c, settings, console), console
        )
        _save(stored, section, settings)
    for model, structure in section.profiles:
        if "profile" in stored["profiles"].get(model.label, {}):
            continue
        console.print(f"{section.name}: profile of {model.label}")
        stored["profiles"][model.label] = _attempt(
            lambda m=model, s=structure: _profile(m, s(), settings), console
        )
        _save(stored, section, settings)
    _save(stored, section, settings)
    results = [*stored["cases"].values(), *stored["profiles"].values()]
    return not any("error" in result for result in results)


def _attempt(measure, console: Console) -> dict:
    try:
        return measure()
    except KanMdError as error:
        reason = str(error)
    except Exception as error:  # a fault of ours in one case must not cost an hour of others
        if os.environ.get("KAN_MD_DEBUG"):
            raise
        reason = f"{type(error).__name__}: {error}"
    console.print(f"  failed: {reason}", style="red", markup=False)
    return {"error": reason}


def _measure(case: Case, settings: Settings, console: Console) -> dict:
    entries: list[Entry] = []
    missing = {}
    for model in case.models:
        try:
            with console.status(f"building {model.label}"):
                entries.append(build(_on_device(model, settings.device), settings.work))
        except KanMdError as error:
            if model.label == case.control:
                raise
            missing[model.label] = str(error)
            console.print(f"  without {model.label}: {error}", style="yellow", markup=False)
    if case.peer:
        entries.append(_mace_torch())
    conditions = Conditions(
        steps=settings.steps,
        seconds=settings.seconds * case.weight / case.repeats,
        blocks=case.blocks,
        repeats=case.repeats,
        warmup=10 if settings.quick else 100,
        ranks=case.ranks,
        threads=case.threads,
        tether=TETHER,
    )
    with show_progress(entries, conditions) as progress:
        report = compare(
            entries,
            case.structure(),
            conditions=conditions,
            control=find_control(entries, case.control),
            title=case.title,
            progress=progress,
        )
    return {"report": asdict(report), "targets": case.targets or {}, "missing": missing}


def _profile(model: Model, atoms, settings: Settings) -> dict:
    entry = build(model, settings.work)
    atoms.rattle(RATTLE, seed=1)
    with tempfile.TemporaryDirectory(prefix="kan-md-") as folder:
        structure = Path(folder) / "structure.xyz"
        atoms.write(structure)
        text = run_program(
            *(PROFILE, entry.pair_coeff.strip('"'), structure),
            *("--steps", 2 if settings.quick else 10),
            what=f"profiling {model.label}",
        )
    return {"profile": json.loads(last_line(text)), "atoms": len(atoms)}


def _on_device(model: Model, device: str) -> Model:
    if device == "cpu":
        return model
    return replace(model, deploy=(*model.deploy, "--device", device))


def _mace_torch() -> Entry:
    config = {**MACE, "readout": READOUTS["MLP"]}
    return Entry(
        label="mace-torch",
        type_names=("C",),
        pair_style="",
        pair_coeff="",
        program=MACE_TORCH,
        options={"config": json.dumps(config)},
    )


def _load(path: Path, settings: Settings) -> dict:
    """Earlier results of the same kind; a quick run and a real one are never mixed."""
    if path.exists():
        stored = json.loads(path.read_text())
        if stored["quick"] == settings.quick and stored["device"] == settings.device:
            return stored
    return {"quick": settings.quick, "device": settings.device, "cases": {}, "profiles": {}}


def _save(stored: dict, section: Section, settings: Settings) -> None:
    text = json.dumps(stored, indent=1, ensure_ascii=False)
    save_atomically(settings.output / f"{section.name}.json", lambda part: part.write_text(text))
    write_page(section, stored, settings.output)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the suite; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--only", action="append", choices=list(SECTIONS), help="repeatable")
    parser.add_argument("--seconds", type=float, default=10.0, help="per model and case")
    parser.add_argument("--steps", type=int, default=5000, help="at most, per model and case")
    parser.add_argument("--quick", action="store_true", help="try the suite out: 1 s per model")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--jobs", type=int, default=2, help="models built at a time")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="built models")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    settings = Settings(
        output=options.output,
        work=options.work.resolve(),
        seconds=1.0 if options.quick else options.seconds,
        steps=options.steps,
        quick=options.quick,
        device=options.device,
        jobs=options.jobs,
    )
    complete = True
    try:
        check_folder(options.output)
        check_folder(settings.work)
        for name in options.only or SECTIONS:
            if options.fresh:
                (options.output / f"{name}.json").unlink(missing_ok=True)
            complete &= run_section(SECTIONS[name](), settings, console)
            console.print(f"{options.output / name}.md", style="bold")
    except KanMdError as error:
        if os.environ.get("KAN_MD_DEBUG"):
            raise
        console.print(f"kan-md: error: {error}", markup=False)
        return 2
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
