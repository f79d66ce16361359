"""The report: each table beside the paper's numbers, and whether its ranking holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kan_md.benchmark.machine import machine_line
from kan_md.benchmark.report import markdown_table
from kan_md.files import write_text
from kan_md.reproduce.data import Source
from kan_md.reproduce.plan import Plan
from kan_md.reproduce.ranking import Verdict, judge
from kan_md.reproduce.tables import Row, Table
from kan_md.runs import Record
from kan_md.runs.record import count_commits
from kan_md.runs.statistics import Estimate, estimate, paired_change

CONTROL = "MLP"
_ERRORS = {
    "potential": {
        "F (meV/Å)": "forces_mae",
        "E (meV/atom)": "energy_mae",
        "E per structure (meV)": "energy_per_structure_mae",
    },
    "carbon": {"RMSE F (meV/Å)": "forces_rmse", "RMSE E (meV/atom)": "energy_rmse"},
    "quartz": {"MAE (me)": "bec_mae"},
}
"""Errors that are shown, in thousandths of the unit that they are kept in."""


@dataclass
class Found:
    """What there is for a table.

    Attributes:
        table: of the paper.
        source: data.
        records: by row and seed.
        timing: report of the benchmark (Table 4).
    """

    table: Table
    source: Source
    records: dict[tuple[str, int], Record] = field(default_factory=dict)
    timing: dict[str, Any] | None = None

    def of_row(self, row: str) -> list[Record]:
        """Finished runs of a row."""
        return [r for (label, _), r in self.records.items() if label == row and r.is_done]

    def by_seed(self, row: str, key: str, part: str) -> dict[int, float]:
        """An error of a row, by seed."""
        found = {
            seed: record.error(key, part)
            for (label, seed), record in self.records.items()
            if label == row and record.is_done
        }
        return {seed: value for seed, value in found.items() if value is not None}

    @property
    def errors(self) -> dict[str, str]:
        """Errors to show, by label."""
        return _ERRORS.get(self.table.system, _ERRORS["potential"])

    @property
    def verdicts(self) -> list[Verdict]:
        """On validation, as the paper did, and on the test set that it lacks."""
        return [
            judge(
                self.table,
                column,
                part,
                {row.label: self.by_seed(row.label, key, part) for row in self.table.rows},
            )
            for column, key in self.table.compare.items()
            for part in ("val", "test")
        ]


def write_report(
    tables: Sequence[Found], plan: Plan, path: Path, *, figures: Mapping[str, str], command: str
) -> None:
    """Write the Markdown file and, beside it, the same as JSON.

    Args:
        tables: what there is.
        plan: how it was run.
        path: of the Markdown file.
        figures: their names, as seen from there, by table.
        command: that did it.
    """
    lines = ["# The paper's tables, run again", "", *_introduction(plan), ""]
    lines += [*_summary(tables), ""]
    for found in tables:
        lines += [*_section(found, figures.get(found.table.name)), ""]
    machines = sorted({machine_line(r.machine) for f in tables for r in f.records.values()})
    records = {r.id: r for found in tables for r in found.records.values()}.values()
    if records:
        lines += [f"Sources: {count_commits(records)}.", ""]
    lines += [*(f"Machine: {line}.\n" for line in machines), f"Command: `{command}`", ""]
    write_text(path, "\n".join(lines), make_folder=True)
    content = {found.table.name: _as_json(found) for found in tables}
    text = json.dumps({"plan": asdict(plan), "tables": content}, indent=1, ensure_ascii=False)
    write_text(path.with_suffix(".json"), text + "\n")


def _introduction(plan: Plan) -> list[str]:
    schedule = "with a cosine schedule (the files' schedules wait for a plateau)"
    if plan.seconds is not None:
        length = f"for {plan.seconds:g} s of wall time each, start-up included, {schedule}"
    elif plan.epochs is not None:
        length = f"for {plan.epochs} epochs, {schedule}"
    else:
        length = "for the epochs of the configuration files"
    size = (
        "the models of the configuration files"
        if plan.size == "paper"
        else "a small model of each backbone, which carries the statistics; `--size paper` runs "
        "those of the files"
    )
    return [
        "Wang, Yu, Zhong, Xiang, *Efficient prediction of potential energy surface and physical "
        "properties with Kolmogorov-Arnold Networks*, J. Mater. Inf. 2024;4:32, "
        "doi 10.20517/jmi.2024.46, beside the same rows run here. Its supplement with widths and "
        "optimisers is not at hand, so numbers cannot be expected to agree; the question is "
        "whether the order of its rows does.",
        "",
        f"Run: {size}, {length}, seeds {', '.join(map(str, plan.seeds))}; data in blocks of "
        "consecutive frames (the paper divides at random). Rows in italics are controls that the "
        "paper has not. `MLP` has as many parameters as the KAN of one layer; in Allegro an MLP as "
        "wide as its scalars (64 in the full-size model) costs what the KAN costs. ± is the "
        "standard error over seeds; changes against the MLP are paired by seed. A pair of rows "
        "counts as ordered beyond two paired standard errors, which takes two seeds at least.",
    ]


def _summary(tables: Sequence[Found]) -> list[str]:
    rows = []
    for found in tables:
        wanted = [row for row in found.table.rows if row.example]
        run = sum(bool(found.of_row(row.label)) for row in wanted)
        answers = {f"{v.column}, {v.part}": v.answer for v in found.verdicts}
        text = "; ".join(f"{name}: {answer}" for name, answer in answers.items()) or "–"
        if found.timing is not None:
            run = len(found.timing.get("rows", []))
        rows.append([found.table.heading, f"{run} of {len(wanted)}", text])
    return markdown_table(["table", "rows that ran", "does the paper's ranking hold?"], rows)


def _section(found: Found, figure: str | None) -> list[str]:
    lines = [f"## {found.table.heading}", ""]
    if found.timing is not None:
        return lines + _timing_lines(found)
    lines += [f"Data: {found.source.about}.", ""]
    heads = ["row", *(f"paper: {column}" for column in found.table.columns), "seeds", "parameters"]
    heads += [f"{part} {label}" for part in ("val", "test") for label in found.errors]
    heads += [f"test {label.rpartition(' (')[0]} against MLP" for label in found.errors]
    heads += ["epochs", "s/epoch"]
    lines += [*markdown_table(heads, [_row(found, row) for row in found.table.rows]), ""]
    if figure is not None:
        lines += [f"![{found.table.name}]({figure})", ""]
    lines += [f"{verdict.text}\n" for verdict in found.verdicts]
    lines += [f"Failed: {r.name}: {r.failure}\n" for r in found.records.values() if not r.is_done]
    return lines


def _row(found: Found, row: Row) -> list[str]:
    records = found.of_row(row.label)
    cells = [row.label if row.paper else f"*{row.label}*"]
    cells += [str(value) for value in row.paper] or ["–"] * len(found.table.columns)
    if not records:
        missing = "not run" if row.example else "–"
        return [*cells, missing, *["–"] * (3 + 3 * len(found.errors))]
    cells += [str(len(records)), f"{records[0].results['parameters']:,}"]
    for part in ("val", "test"):
        for key in found.errors.values():
            values = found.by_seed(row.label, key, part).values()
            cells.append(_text(estimate([1e3 * value for value in values])))
    for key in found.errors.values():
        change = paired_change(
            found.by_seed(row.label, key, "test"), found.by_seed(CONTROL, key, "test")
        )
        cells.append("–" if change is None or row.label == CONTROL else change.percent())
    epochs = sorted({r.results["epochs"] for r in records})
    shown = f"{epochs[0]}" + f" to {epochs[-1]}" * (len(epochs) > 1)
    seconds = estimate([r.results["seconds"] / r.results["epochs"] for r in records])
    return [*cells, shown, _text(seconds, 2)]


def _timing_lines(found: Found) -> list[str]:
    assert found.timing is not None
    if "failure" in found.timing:
        return [f"Failed: {found.timing['failure']}"]
    timed = {row["label"]: row for row in found.timing["rows"]}
    control = timed.get(CONTROL)
    paper = {row.label: row.paper for row in found.table.rows}
    rows = []
    for row in found.table.rows:
        ours = timed.get(row.label)
        cells = [row.label if row.paper else f"*{row.label}*"]
        cells += [str(v) for v in row.paper] or ["–"] * len(found.table.columns)
        cells.append(f"{row.paper[0] / paper[CONTROL][0]:.3f}" if row.paper else "–")
        if ours is None:
            rows.append([*cells, "not run", "–", "–"])
            continue
        ratio = ours["ms_per_step"] / control["ms_per_step"] if control else None
        cells.append(f"{ours['ms_per_step']:.2f} ± {ours['ms_error']:.2f}")
        cells.append("–" if ratio is None else f"{ratio:.3f}")
        rows.append([*cells, f"{ours['peak_rss_mib']:.0f}"])
    heads = ["row", *(f"paper: {column}" for column in found.table.columns), "paper: ratio to MLP"]
    heads += ["ms/step", "ratio to MLP", "peak memory (MiB)"]
    return [
        *markdown_table(heads, rows),
        "",
        f"{found.timing['structure']}; NVT, 300 K, one thread unless OMP_NUM_THREADS says "
        "otherwise, fresh weights (speed does not depend on them), deployed by `kan-md deploy`.",
        "",
        f"Timed on: {machine_line(found.timing['machine'])}.",
    ]


def _as_json(found: Found) -> dict[str, Any]:
    rows = {}
    for row in found.table.rows:
        errors = {
            part: {
                key: estimate_json(estimate(list(found.by_seed(row.label, key, part).values())))
                for key in found.errors.values()
            }
            for part in ("train", "val", "test")
        }
        runs = {str(seed): r.id for (label, seed), r in found.records.items() if label == row.label}
        paper = dict(zip(found.table.columns, row.paper, strict=False))
        rows[row.label] = {"paper": paper, "errors": errors, "runs": runs}
    verdicts = [{**asdict(verdict), "answer": verdict.answer} for verdict in found.verdicts]
    content = {"data": found.source.about, "rows": rows, "ranking": verdicts}
    return content if found.timing is None else {**content, "timing": found.timing}


def estimate_json(value: Estimate | None) -> dict[str, Any] | None:
    """Mean, standard error and number of seeds."""
    return None if value is None else asdict(value)


def _text(value: Estimate | None, digits: int = 3) -> str:
    return "–" if value is None else value.text(digits)
