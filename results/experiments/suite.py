"""The published timings: ``python -m results.experiments.suite --output results`` (``make bench``).

Each section writes NAME.md, NAME.json and figures. Every finished case is in the JSON at once; a
second call measures only what is missing, so a run can be interrupted, and what failed is tried
again. A case that fails is reported as such and the rest goes on. Building models takes longer than
timing them: ``--build-only`` does it beforehand, ``--case NAME`` then measures one case at a time.
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
from kan_md.errors import KanMdError, user_error
from results.experiments.cases import MACE_TORCH, SECTIONS, Case, Section
from results.experiments.classical import CLASSICAL
from results.experiments.pages import write_page
from results.experiments.zoo import MACE, READOUTS, Model, build, run_program

PEER = Path(__file__).with_name("mace_torch.py")
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
        cases: names of cases to measure; all where empty. Profiles belong to no case.
        build_only: build models and measure nothing.
        fresh: measure again what is there.
    """

    output: Path
    work: Path
    seconds: float
    steps: int
    quick: bool
    device: str
    jobs: int
    cases: tuple[str, ...] = ()
    build_only: bool = False
    fresh: bool = False


def chosen(section: Section, settings: Settings) -> list[Case]:
    """The cases of a section that are asked for."""
    return [case for case in section.cases if not settings.cases or case.name in settings.cases]


def build_all(section: Section, settings: Settings, console: Console) -> None:
    """Build the models of the cases that are missing, several at a time.

    A model that cannot be built, for whatever reason, is left to its case, which reports it.
    """
    stored = _load(section, settings)
    wanted = [
        (_on_device(model, settings.device), case.threads)
        for case in chosen(section, settings)
        if "report" not in stored["cases"].get(case.name, {})
        for model in case.models
    ]
    # Models that share a checkpoint are built in one go.
    groups: dict[str, dict[tuple[str, int], tuple[Model, int]]] = {}
    for model, threads in wanted:
        key = json.dumps([model.config, model.element, model.seed])
        groups.setdefault(key, {})[repr(model), threads] = (model, threads)

    def build_group(models: dict) -> None:
        for model, threads in models.values():
            with suppress(Exception):
                build(model, settings.work, threads=threads)

    status = console.status(f"{section.name}: building {len(groups)} models")
    with status, ThreadPoolExecutor(settings.jobs) as pool:
        list(pool.map(build_group, groups.values()))


def run_section(section: Section, settings: Settings, console: Console) -> bool:
    """Measure what is missing of a section and write its page.

    Returns:
        Whether every case is there.
    """
    if settings.jobs > 1 or settings.build_only:
        build_all(section, settings, console)
    if settings.build_only:
        return True
    stored = _load(section, settings)
    for case in chosen(section, settings):
        if "report" in stored["cases"].get(case.name, {}):
            console.print(f"{section.name}: {case.title}: already there", style="dim")
            continue
        console.print(f"{section.name}: {case.title}")
        stored["cases"][case.name] = _attempt(
            lambda c=case: _measure(c, settings, console), console
        )
        _save(stored, section, settings)
    for model, structure in () if settings.cases else section.profiles:
        if "profile" in stored["profiles"].get(model.label, {}):
            continue
        console.print(f"{section.name}: profile of {model.label}")
        stored["profiles"][model.label] = _attempt(
            lambda m=model, s=structure: _profile(m, s(), settings), console
        )
        _save(stored, section, settings)
    _save(stored, section, settings)
    results = [stored["cases"][case.name] for case in chosen(section, settings)]
    results += stored["profiles"].values()
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
                model = _on_device(model, settings.device)
                entries.append(build(model, settings.work, threads=case.threads))
        except KanMdError as error:
            if model.label == case.control:
                raise
            missing[model.label] = str(error)
            console.print(f"  without {model.label}: {error}", style="yellow", markup=False)
    entries += [_mace_torch(form) for form in case.peers]
    entries += [CLASSICAL[name](settings.work) for name in case.classical]
    conditions = Conditions(
        steps=settings.steps,
        seconds=settings.seconds * case.weight / case.repeats,
        blocks=case.blocks,
        repeats=case.repeats,
        warmup=min(10, case.warmup) if settings.quick else case.warmup,
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
    if device == "cpu" or model.tool != "kan-md":
        return model
    return replace(model, deploy=(*model.deploy, "--device", device))


def _mace_torch(form: str) -> Entry:
    config = {**MACE, "readout": READOUTS["MLP"]}
    return Entry(
        label=MACE_TORCH[form],
        type_names=("C",),
        pair_style="mace-torch",
        pair_coeff="",
        dtype="float32",
        program=PEER,
        options={"config": json.dumps(config), "form": form},
    )


def _load(section: Section, settings: Settings) -> dict:
    """Earlier results that stay; a quick run and a real one, or two devices, are never mixed."""
    path = settings.output / f"{section.name}.json"
    stored = {"quick": settings.quick, "device": settings.device, "cases": {}, "profiles": {}}
    if path.exists():
        found = json.loads(path.read_text())
        if all(found[key] == stored[key] for key in ("quick", "device")):
            stored = found
    if settings.fresh:
        for case in chosen(section, settings):
            stored["cases"].pop(case.name, None)
        if not settings.cases:
            stored["profiles"] = {}
    return stored


def _save(stored: dict, section: Section, settings: Settings) -> None:
    text = json.dumps(stored, indent=1, ensure_ascii=False)
    save_atomically(settings.output / f"{section.name}.json", lambda part: part.write_text(text))
    write_page(section, stored, settings.output)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the suite; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--only", action="append", choices=list(SECTIONS), help="repeatable")
    parser.add_argument("--case", action="append", default=[], help="name of a case; repeatable")
    parser.add_argument("--draw", action="store_true", help="pages of what is there, no more")
    parser.add_argument("--build-only", action="store_true", help="build models, measure nothing")
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
        cases=tuple(options.case),
        build_only=options.build_only,
        fresh=options.fresh,
    )
    complete = True
    try:
        check_folder(options.output)
        check_folder(settings.work)
        sections = {name: SECTIONS[name]() for name in options.only or SECTIONS}
        known = [case.name for section in sections.values() for case in section.cases]
        for name in settings.cases:
            if name not in known:
                raise user_error(
                    "no such case", found=name, allowed=", ".join(known), remedy="change --case"
                )
        for name, section in sections.items():
            if options.draw:
                _save(_load(section, settings), section, settings)
                continue
            complete &= run_section(section, settings, console)
            console.print(f"{options.output / name}.md", style="bold")
    except KanMdError as error:
        if os.environ.get("KAN_MD_DEBUG"):
            raise
        console.print(f"kan-md: error: {error}", markup=False)
        return 2
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
