"""From trained runs to points: each is deployed, and all are timed together in LAMMPS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ase import Atoms
from rich.console import Console

from kan_md.benchmark.compare import Conditions, Report, compare
from kan_md.benchmark.models import Entry, deployed_entry
from kan_md.benchmark.progress import show_progress
from kan_md.errors import KanMdError
from kan_md.front.points import Point
from kan_md.runs import Record, Run, Store
from kan_md.runs.own_command import run_kan_md

DEPLOYED_FILE = "model.deployed.pth"
CONDITIONS = Conditions(steps=2000, seconds=4.0, blocks=10, warmup=50, tether=5.0)
"""Short, on one thread. Atoms are tethered, so that the worst model times the same structure."""
_TRIAL = replace(CONDITIONS, steps=20, seconds=None, blocks=1, warmup=0)

Failures = dict[str, str]
"""Reasons by the names of sizes."""


def deploy_all(
    runs: Sequence[Run], store: Store, *, console: Console
) -> tuple[dict[str, Path], Failures]:
    """Deploy the trained models beside them; a file that is newer than its model stays.

    Args:
        runs: those without a trained model are passed over.
        store: where they are.
        console: gets a line per failure.

    Returns:
        Deployed files by name of the run; and why others could not be deployed.
    """
    files, failed = {}, {}
    for run in runs:
        model = store.model(run)
        if model is None:
            continue
        file = model.with_name(DEPLOYED_FILE)
        if not (file.is_file() and file.stat().st_mtime >= model.stat().st_mtime):
            words = ("deploy", model, "--output", file, "--overwrite")
            try:
                with console.status(f"deploying {run.name}"):
                    run_kan_md(*words, what="not deployed")
            except KanMdError as error:
                failed[run.name] = str(error)
                console.print(f"{run.name}: {error}", markup=False)
                continue
        files[run.name] = file
    return files, failed


def time_all(
    files: Mapping[str, Path], atoms: Atoms, folder: Path, *, console: Console
) -> tuple[Report, Failures]:
    """Time deployed models in one interleaved run; those that LAMMPS cannot run are left out.

    Args:
        files: by name, at least one.
        atoms: the structure.
        folder: for inputs and logs.
        console: gets a line per failure.

    Raises:
        KanMdError: none of them runs.
    """
    entries = [replace(deployed_entry(str(file)), label=name) for name, file in files.items()]
    try:
        return _compare(entries, atoms, folder), {}
    except KanMdError as error:
        failed = _that_fail(entries, atoms, folder)
        if not failed or len(failed) == len(entries):
            raise
        console.print(f"timing again without what failed: {error}", markup=False)
    return _compare([e for e in entries if e.label not in failed], atoms, folder), failed


def _compare(entries: Sequence[Entry], atoms: Atoms, folder: Path) -> Report:
    with show_progress(entries, CONDITIONS) as progress:
        return compare(entries, atoms, conditions=CONDITIONS, folder=folder, progress=progress)


def _that_fail(entries: Sequence[Entry], atoms: Atoms, folder: Path) -> Failures:
    """Run each alone for a few steps, since one that fails ends a run of several."""
    failed = {}
    for entry in entries:
        try:
            compare([entry], atoms, conditions=_TRIAL, folder=folder / f"alone-{entry.label}")
        except KanMdError as error:
            failed[entry.label] = str(error)
    return failed


def points_of(
    records: Mapping[str, Record], report: Report, files: Mapping[str, Path], folder: Path
) -> list[Point]:
    """The models that were timed, in the order of the timing.

    Args:
        records: of their trainings, by name.
        report: of the timing, a row for each name.
        files: deployed models by name.
        folder: of the results, at which the names of their files start.
    """
    points = []
    for row in report.rows:
        results = records[row.label].results
        points.append(
            Point(
                name=row.label,
                backbone=row.backbone,
                time=row.us_per_atom_step,
                time_error=row.ms_error * 1e3 / row.num_atoms,
                errors=results["errors"]["test"],
                parameters=results["parameters"],
                seconds=results["seconds"],
                epochs=results["epochs"],
                file=str(files[row.label].relative_to(folder)),
            )
        )
    return points
