"""The whole way from a configuration to a front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from kan_md.benchmark.store import check_folder
from kan_md.benchmark.structures import read_structure
from kan_md.config.duration import parse_duration
from kan_md.config.load import load_config
from kan_md.config.schema import TrainConfig
from kan_md.errors import KanMdError, user_error
from kan_md.front import ladder
from kan_md.front.held_out import read_held_out, timing_structure
from kan_md.front.measure import deploy_all, points_of, time_all
from kan_md.front.report import Front, save_front
from kan_md.runs import Run, Store, run_missing
from kan_md.runs.record import path_of


def make_front(
    path: Path,
    output: Path,
    *,
    sizes: str,
    budget: str | None = None,
    structure: Path | None = None,
    settings: Sequence[str] = (),
    console: Console,
) -> Front:
    """Train, deploy and time a ladder of sizes, and write what comes out.

    Args:
        path: the configuration.
        output: folder for everything; what is done there already stays.
        sizes: names with commas, see :func:`kan_md.front.ladder.parse_names`.
        budget: time for training, e.g. ``4h``; None for no limit.
        structure: to time on, as it is; None: the first test structure, repeated.
        settings: ``section.key=value`` that replace what the configuration says.
        console: where to tell what happens.

    Raises:
        KanMdError: an argument, the configuration or the data will not do, before any training; or
            no size came through.
    """
    names = ladder.parse_names(sizes)
    seconds = _seconds_of(budget)
    config = load_config(path, settings)
    ladder.check_config(config)
    runs = ladder.runs_of(config, names)
    for run in runs:
        _ = run.config  # raises now what its training would say after those before it
    frames, warnings = read_held_out(config)
    atoms = (
        timing_structure(frames[0], r_max=config.model.r_max)
        if structure is None
        else read_structure(structure)
    )
    check_folder(output)
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    _tell_ladder(config, names, console)
    store = Store(output / "records", output / "runs")
    _tell_budget(config, [run for run in runs if not _is_done(store, run)], seconds, console)
    try:
        run_missing(runs, store, threads=config.training.threads, budget=seconds, console=console)
        trained, failed, unfinished = _sorted(runs, store)
        files, not_deployed = deploy_all(trained, store, console=console)
        failed |= not_deployed
        if not files:
            raise _nothing(failed, unfinished)
        report, not_run = time_all(files, atoms, output / "timing", console=console)
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on", style="yellow")
        raise
    records = {run.name: record for run in trained if (record := store.find(run)) is not None}
    result = Front(
        title=f"Accuracy against cost, {', '.join(file.name for file in config.data.train)}",
        points=points_of(records, report, files, output),
        failed=failed | not_run,
        unfinished=unfinished,
        test_structures=len(frames),
        seed=config.training.seed,
        timing=report,
    )
    save_front(result, output)
    return result


def _seconds_of(budget: str | None) -> float | None:
    """A budget in seconds.

    Raises:
        KanMdError: it is no duration, or none that lets anything happen.
    """
    if budget is None:
        return None
    try:
        seconds = float(str(parse_duration(budget)))
    except ValueError as error:
        raise user_error(
            "--budget", found=repr(budget), allowed=str(error), remedy="e.g. --budget 4h"
        ) from error
    if seconds <= 0:
        raise user_error("--budget", found=budget, allowed="> 0 s", remedy="e.g. --budget 4h")
    return seconds


def _is_done(store: Store, run: Run) -> bool:
    record = store.find(run)
    return record is not None and record.is_done


def _tell_ladder(config: TrainConfig, names: Sequence[str], console: Console) -> None:
    """Say what of the configuration the sizes do without."""
    if set(names) == {ladder.OWN}:
        return
    replaced = ", ".join(f"model.{key}" for key in ladder.replaced_keys(config))
    console.print(
        f"sizes {', '.join(names)}: each has its own readout and hyperparameters; of the "
        f"configuration they do without {replaced}",
        markup=False,
    )


def _tell_budget(
    config: TrainConfig, missing: Sequence[Run], seconds: float | None, console: Console
) -> None:
    """Say beforehand where the budget cannot be enough."""
    longest = config.training.max_time
    if seconds is None or longest is None or longest * len(missing) < seconds:
        return
    share = int(0.95 * seconds / len(missing))
    console.print(
        f"note: {len(missing)} trainings of up to {longest:g} s each may need more than the "
        f"budget of {seconds:g} s; to see all sizes in one call, add --set "
        f"training.max_time={share}s",
        markup=False,
    )


def _sorted(runs: Sequence[Run], store: Store) -> tuple[list[Run], dict[str, str], list[str]]:
    """Runs with a trained model; reasons of those that failed; names of those still to be done."""
    trained, failed, unfinished = [], {}, []
    for run in runs:
        record = store.find(run)
        if record is None:
            unfinished.append(run.name)
        elif record.failure is not None:
            failed[run.name] = record.failure
        elif store.model(run) is None:
            path = path_of(record.name, record.id, store.records)
            failed[run.name] = (
                f"trained, but model.pth is no longer in {store.work}; remove {path}, and it is "
                "trained again"
            )
        else:
            trained.append(run)
    return trained, failed, unfinished


def _nothing(failed: dict[str, str], unfinished: Sequence[str]) -> KanMdError:
    """Why there is no front at all."""
    if failed:
        name, reason = next(iter(failed.items()))
        return KanMdError(f"no size came through; {name}: {reason}")
    return user_error(
        "nothing to draw yet",
        found=f"no trained model ({', '.join(unfinished)} unfinished)",
        allowed=None,
        remedy="give the same command again, which goes on, or a larger --budget",
    )
