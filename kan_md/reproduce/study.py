"""All of it: data, runs, report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console

from kan_md.benchmark.store import check_folder
from kan_md.files import write_text
from kan_md.reproduce.data import find_data
from kan_md.reproduce.figure import save_errors
from kan_md.reproduce.plan import Plan, Size, check_rows, chosen_rows, share_of_budget
from kan_md.reproduce.report import Found, write_report
from kan_md.reproduce.speed import time_rows
from kan_md.reproduce.tables import choose_tables
from kan_md.runs import Run, Store, run_missing

TIMED = "table4"
REPORT = "report.md"


@dataclass(frozen=True, kw_only=True)
class Study:
    """Settings of ``kan-md reproduce``; :meth:`run` does it.

    Attributes:
        tables: names; all where there are none.
        rows: labels; all where there are none.
        data: folder of the user's sets; None for self-made ones.
        seeds: of every row.
        size: of the models.
        budget: s for all trainings together; without `epochs` all have the same share of it.
        epochs: of every run; None for those of the files, or for the budget.
        jobs: trainings at a time.
        threads: of each; None leaves it to the environment.
        device: of the trainings.
        output: folder of figures, runs/ and work/.
        report: Markdown file; its numbers as JSON are beside it. None: report.md in the folder.
        draw: report what is there and run nothing.
        command: for the report.
        console: told what happens.
    """

    tables: Sequence[str]
    rows: Sequence[str]
    data: Path | None
    seeds: tuple[int, ...]
    size: Size
    budget: float | None
    epochs: int | None
    jobs: int
    threads: int | None
    device: str
    output: Path
    report: Path | None
    draw: bool
    command: str
    console: Console

    def run(self) -> Path:
        """Train what is missing, time Table 4, write the report.

        Returns:
            Path of the report.

        Raises:
            KanMdError: a setting is not allowed or data are missing; runs that fail are reported.
        """
        tables = choose_tables(self.tables)
        check_rows(tables, self.rows)
        check_folder(self.output)
        store = Store(self.output / "runs", self.output / "work")
        own = self.output / "work" / "data"
        found = [Found(t, find_data(t.system, self.data, own, self.console)) for t in tables]
        trained = [one for one in found if one.table.name != TIMED]
        plan = self._plan(trained)
        runs = {
            (one.table.name, row.label, seed): plan.run(one.table, row, seed, one.source)
            for seed in self.seeds  # so that what is there is a whole table at any time
            for one in trained
            for row in chosen_rows(one.table, self.rows)
        }
        if not self.draw:
            self._train(list(runs.values()), store)
        for (name, label, seed), run in runs.items():
            record = store.find(run)
            if record is not None:
                next(f for f in found if f.table.name == name).records[label, seed] = record
        for one in found:
            if one.table.name == TIMED and not self.draw:
                one.timing = time_rows(
                    one.table, list(self.rows), plan, self.output / "work", self.console
                )
        path = self.output / REPORT if self.report is None else self.report
        figures = {}
        for one in found:
            name = f"{one.table.name}.png"
            if save_errors(one, self.output / name):
                figures[one.table.name] = os.path.relpath(self.output / name, path.parent)
        write_report(found, plan, path, figures=figures, command=self.command)
        return path

    def _plan(self, tables: Sequence[Found]) -> Plan:
        """Every run has the same share of the budget."""
        number = sum(len(chosen_rows(one.table, self.rows)) for one in tables) * len(self.seeds)
        shared = self.budget if self.epochs is None else None
        return Plan(
            seeds=self.seeds,
            size=self.size,
            seconds=share_of_budget(shared, number, self.jobs),
            epochs=self.epochs,
            device=self.device,
        )

    def _train(self, runs: Sequence[Run], store: Store) -> None:
        distinct = {run.id: run for run in runs}  # the MLP of Table 2 is that of Table 3
        for run in distinct.values():
            text = yaml.safe_dump(dict(run.content), sort_keys=False)
            folder = self.output / "configurations"
            write_text(folder / f"{run.name}.yaml", text, make_folder=True)
        run_missing(
            list(distinct.values()),
            store,
            jobs=self.jobs,
            threads=self.threads,
            budget=self.budget,
            console=self.console,
        )
