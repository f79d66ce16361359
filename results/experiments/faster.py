"""How many times faster than the control: tables and the figure of the page on speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from pathlib import Path

from kan_md.benchmark.compare import Report
from kan_md.benchmark.machine import machine_line
from kan_md.benchmark.numbers import plus_minus, times_faster
from kan_md.benchmark.report import conditions_line, markdown_table, report_table
from kan_md.benchmark.statistics import Row
from kan_md.figures import COLOURS, GREY, INK, bars, new_figure, save_figure
from results.experiments.cases import FAST, MACE_TORCH, PLAIN, Case


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What a deployed KAN gains in one case.

    Attributes:
        title: of the case.
        control: row of the control.
        plain: row of the file without passes, where it was timed.
        fast: row of the file as deployed by default.
        over_control: times faster than the control, and the error.
        over_plain: times faster than the file without passes, and the error.
    """

    title: str
    control: Row
    plain: Row | None
    fast: Row
    over_control: tuple[float, float]
    over_plain: tuple[float, float] | None


def gains(cases: Sequence[Case], reports: Mapping[str, Report]) -> list[Gain]:
    """The cases that compare a file deployed by default with another control."""
    found = []
    for case in cases:
        report = reports.get(case.name)
        rows = {row.label: row for row in report.rows} if report else {}
        if FAST not in rows or report.control in (None, FAST):
            continue
        fast, plain = rows[FAST], rows.get(PLAIN)
        control = _fastest_control(rows, report.control)
        found.append(
            Gain(
                title=case.title,
                control=control,
                plain=plain,
                fast=fast,
                over_control=times_faster(fast)
                if control.label == report.control
                else _quotient(control, fast),
                over_plain=None if plain is None else _quotient(plain, fast),
            )
        )
    return found


def _fastest_control(rows: Mapping[str, Row], label: str) -> Row:
    """The control's row; of mace-torch's several forms the one that was fastest in this case."""
    forms = MACE_TORCH.values()
    candidates = [rows[form] for form in forms if form in rows] if label in forms else []
    return min(candidates, key=lambda row: row.ms_per_step, default=rows[label])


def _quotient(slow: Row, fast: Row) -> tuple[float, float]:
    """Ratio of two times of one run, errors of both added in quadrature."""
    value = slow.ms_per_step / fast.ms_per_step
    relative = hypot(slow.ms_error / slow.ms_per_step, fast.ms_error / fast.ms_per_step)
    return value, value * relative


def summary(found: Sequence[Gain]) -> list[str]:
    """One line per case: times, times faster, processor time, memory."""
    heads = [
        *("case", "control", "control (ms/step)", f"{PLAIN} (ms/step)", f"{FAST} (ms/step)"),
        *("times faster than the control", f"than {PLAIN}"),
        *("CPU, control (ms/step)", f"CPU, {FAST} (ms/step)", "peak memory / control"),
    ]
    rows = [
        [
            *(gain.title, gain.control.label, _time(gain.control), _time(gain.plain)),
            _time(gain.fast),
            plus_minus(*gain.over_control),
            plus_minus(*gain.over_plain) if gain.over_plain else "",
            *(_cpu(gain.control), _cpu(gain.fast)),
            f"{gain.fast.peak_rss_mib / gain.control.peak_rss_mib:.2f}",
        ]
        for gain in found
    ]
    return ["## Times faster", "", *markdown_table(heads, rows), ""] if rows else []


def _time(row: Row | None) -> str:
    return "" if row is None else plus_minus(row.ms_per_step, row.ms_error)


def _cpu(row: Row) -> str:
    return "" if row.cpu_ms_per_step is None else f"{row.cpu_ms_per_step:.3g}"


def save_gains(found: Sequence[Gain], path: Path) -> None:
    """Draw times faster than upstream's files, and than files without passes, bars from zero."""
    upstream = [gain for gain in found if gain.control.label != PLAIN]
    figure = new_figure(10, 1.4 + 0.34 * len(upstream))
    axes = figure.subplots(1, 2)
    labels = [gain.title for gain in upstream]
    for axis, what, values, colour in (
        (axes[0], "upstream's own compiled model", [g.over_control for g in upstream], COLOURS[0]),
        (axes[1], f"kan-md's file with {PLAIN}", [g.over_plain for g in upstream], GREY),
    ):
        known = [value or (0.0, 0.0) for value in values]
        bars(
            axis,
            labels,
            [value for value, _ in known],
            errors=[error for _, error in known],
            colours=[colour] * len(known),
            unit="times faster",
            texts=["not run" if value is None else plus_minus(*value) for value in values],
        )
        axis.axvline(1.0, color=INK, linewidth=0.8, linestyle=":")
        axis.set_title(f"than {what}", fontsize=10)
    axes[1].tick_params(labelleft=False)
    save_figure(figure, path)


def details(report: Report, *, machine: Mapping) -> list[str]:
    """A case's table; its machine only where that is not the page's."""
    lines = [f"## {report.title}", "", *report_table(report, faster=True), ""]
    lines += [conditions_line(report), ""]
    if report.machine != machine:
        lines += [machine_line(report.machine), ""]
    return [*lines, f"`{report.command}`, {report.date} UTC", ""]
