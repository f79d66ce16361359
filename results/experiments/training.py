"""Pages of results about models that are trained for them: trainings, results, bars."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from kan_md.benchmark.compare import command_line
from kan_md.benchmark.machine import describe_machine
from kan_md.benchmark.report import save_atomically
from kan_md.benchmark.store import check_folder
from kan_md.errors import KanMdError
from kan_md.runs import Record, Run, Store, run_missing
from results.experiments.data_sets import add_data_option, check_data
from results.experiments.zoo import run_kan_md

DEPLOYED = "model.deployed.pth"


def store_of(work: Path) -> Store:
    """Where the trainings of a study lie, and their records."""
    return Store(work / "records", work)


def run_of_case(key: str, configuration: Mapping) -> Run:
    """The training of a case; its paths are absolute."""
    return Run(key, configuration)


def fill_missing(
    configurations: Mapping[str, Mapping],
    stored: dict,
    finish: Callable[[str, Path, Record], dict],
    *,
    keep: Callable[[], None],
    options: argparse.Namespace,
    console: Console,
) -> None:
    """Train the cases that `stored` lacks, also those that failed before, and finish each.

    Args:
        configurations: contents of the YAML file, by the names of all cases.
        stored: results by name, with ``errors``, or ``error`` where a case failed; grows.
        finish: makes a result of a case's name, its model.pth and its record.
        keep: writes `stored` to disk, called after every case.
        options: with ``work``, a folder, and ``jobs``, trainings at a time.
        console: for a line per case.
    """
    store = store_of(options.work)
    runs = {
        key: run_of_case(key, content)
        for key, content in configurations.items()
        if "errors" not in stored.get(key, {})
    }
    run_missing(list(runs.values()), store, jobs=options.jobs, threads=1, console=console)
    for key, run in runs.items():
        record, model = store.find(run), store.model(run)
        if record is None:  # interrupted, or with another process: the next call has it
            continue
        try:
            if record.failure is not None:
                raise KanMdError(record.failure)
            if model is None:
                raise KanMdError(f"its model is not in {store.work} any more")
            stored[key] = finish(key, model, record)
        except KanMdError as error:
            stored[key] = {"error": str(error)}
            console.print(f"{key}: {error}", markup=False, highlight=False)
        keep()


def results_of(record: Record) -> dict:
    """Errors, numbers of structures and of parameters, epochs and seconds of a training."""
    names = ("errors", "structures", "parameters", "epochs", "seconds")
    return {name: record.results[name] for name in names}


def deployed(model: Path, *, what: str) -> Path:
    """Deploy a model beside itself, where that is not done.

    Args:
        model: model.pth.
        what: it is, for messages.

    Raises:
        KanMdError: it failed.
    """
    file = model.with_name(DEPLOYED)
    if not file.exists():
        run_kan_md("deploy", model, "--output", file, what=what)
    return file


def mean_and_spread(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds; 0 for a single one."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def save_bars(panels: Mapping[str, Mapping[str, tuple[float, float]]], path: Path) -> None:
    """Write bars from zero with error bars.

    Args:
        panels: label of the axis with its unit -> row -> (height, error).
        path: PNG.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    width = max(len(rows) for rows in panels.values())
    figure, axes = plt.subplots(
        1, len(panels), figsize=(len(panels) * (1.6 + 0.8 * width), 3.2), layout="constrained"
    )
    for axis, (label, rows) in zip(axes, panels.items(), strict=True):
        colours = ["C0" if "KAN" in name else "0.6" for name in rows]
        means, spreads = ([value[i] for value in rows.values()] for i in (0, 1))
        bars = {"yerr": spreads, "capsize": 4} if any(spreads) else {}  # none of a single seed
        axis.bar(range(len(rows)), means, color=colours, **bars)
        names = [name.replace(", ", ",\n").replace("KAN ", "KAN\n") for name in rows]
        axis.set_xticks(range(len(rows)), names, fontsize="small")
        axis.set_ylim(bottom=0)
        axis.set_ylabel(label)
    save_atomically(path, lambda part: figure.savefig(part, dpi=150, format="png"))
    plt.close(figure)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A page of results about models that are trained for it.

    Attributes:
        name: of NAME.md, NAME.json and NAME.png.
        description: first line of the help.
        files: names of the data sets.
        run: measures what `stored` lacks; keeps each result by calling its last argument.
        page: text of NAME.md from what is stored.
        save_figure: writes NAME.png from what is stored.
    """

    name: str
    description: str
    files: Sequence[str]
    run: Callable[[dict, argparse.Namespace, Console, Callable[[], None]], None]
    page: Callable[[dict], str]
    save_figure: Callable[[dict, Path], None]

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Command line; returns the exit status."""
        parser = argparse.ArgumentParser(description=self.description)
        work = Path("build") / self.name
        add_data_option(parser)
        parser.add_argument("--output", type=Path, default=Path("results"))
        parser.add_argument("--work", type=Path, default=work, help="trained models")
        parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
        options = parser.parse_args(arguments)
        console = Console(stderr=True)
        try:
            stored = self._measure(options, console)
        except KanMdError as error:
            console.print(f"kan-md: error: {error}", markup=False)
            return 2
        self.save_figure(stored, options.output / f"{self.name}.png")
        text = self.page(stored)
        save_atomically(options.output / f"{self.name}.md", lambda part: part.write_text(text))
        return 1 if any("error" in case for case in stored["cases"].values()) else 0

    def _measure(self, options: argparse.Namespace, console: Console) -> dict:
        check_data(options.data, self.files)
        check_folder(options.output)
        check_folder(options.work)
        options.data, options.work = options.data.resolve(), options.work.resolve()
        path = options.output / f"{self.name}.json"
        stored = json.loads(path.read_text()) if path.exists() else {"cases": {}}

        def keep() -> None:
            save_atomically(path, lambda part: part.write_text(json.dumps(stored, indent=1)))

        self.run(stored, options, console, keep)
        stored |= {"machine": describe_machine(), "command": command_line(), "jobs": options.jobs}
        keep()
        return stored
