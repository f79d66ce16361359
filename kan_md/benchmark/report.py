"""A comparison for the eye: table on screen and in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kan_md.benchmark.compare import Report
from kan_md.benchmark.machine import machine_line
from kan_md.benchmark.numbers import number, phases_in, plus_minus, times_faster
from kan_md.benchmark.statistics import Row
from kan_md.files import written_whole

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Column:
    """One column of the table: heading, unit, and how a row fills it."""

    heading: str
    unit: str
    text: Callable[[Row], str]


def columns(report: Report, *, faster: bool = False) -> list[Column]:
    """Columns of the main table; those that no row can fill are left out.

    Args:
        report: what to show.
        faster: how many times faster than the control a model is, instead of the ratio of times.
    """
    ratio = [
        Column(f"times faster than {report.control}", "", _faster_text)
        if faster
        else Column(f"ratio to {report.control}", "", _ratio_text)
    ]
    cpu = [Column("CPU", "ms/step", lambda r: number(r.cpu_ms_per_step))]
    device = [
        Column(heading, "MiB", lambda r, key=key: number(r.device_mib.get(key)))
        for key, heading in (
            ("cuda_peak_allocated", "GPU allocated"),
            ("cuda_peak_reserved", "GPU reserved"),
            ("driver", "GPU driver"),
        )
        if any(key in row.device_mib for row in report.rows)
    ]
    return [
        Column("model", "", lambda r: r.label),
        Column("readout", "", lambda r: r.readout),
        Column("time", "ms/step", lambda r: plus_minus(r.ms_per_step, r.ms_error)),
        Column("p95", "ms/step", lambda r: number(r.ms_p95)),
        *(cpu if any(row.cpu_ms_per_step is not None for row in report.rows) else []),
        *(ratio if report.control else []),
        Column("per atom", "µs/step", lambda r: number(r.us_per_atom_step)),
        Column("speed", "ns/day", lambda r: number(r.ns_per_day)),
        Column("edges", "per atom", lambda r: f"{r.edges_per_atom:.1f}"),
        Column("peak RSS", "MiB", lambda r: f"{r.peak_rss_mib:.0f}"),
        *device,
    ]


def _ratio_text(row: Row) -> str:
    return "" if row.ratio is None else f"{row.ratio:.3f} ± {row.ratio_error:.3f}"


def _faster_text(row: Row) -> str:
    found = times_faster(row)
    return "" if found is None else plus_minus(*found)


def screen_table(report: Report) -> Table:
    """The main table for rich; fits 80 columns for short labels."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=report.title,
        caption=caption(report),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    shown = [c for c in columns(report) if c.heading not in ("readout", "CPU")]
    for column in shown:
        heading = column.heading.replace("ratio to ", "ratio to\n").replace("peak RSS", "RSS")
        heading = f"{heading}\n{column.unit}" if column.unit else heading
        table.add_column(
            heading, justify="left" if column.heading == "model" else "right", no_wrap=True
        )
    for row in report.rows:
        table.add_row(*(column.text(row).replace(" ± ", "±") for column in shown))
    return table


def phase_table(report: Report) -> Table:
    """Where the time goes, for rich."""
    from rich.table import Table

    names = phases_in(report.rows)
    table = Table(title="Share of the loop time (%)")
    table.add_column("model")
    for name in names:
        table.add_column(name, justify="right")
    for row in report.rows:
        table.add_row(row.label, *(f"{100 * row.phases.get(name, 0):.1f}" for name in names))
    return table


def caption(report: Report) -> str:
    """What the numbers mean and what they were measured with."""
    return f"{conditions_line(report)}\n{machine_line(report.machine)}"


def conditions_line(report: Report) -> str:
    """Structure and run of a report, and what its numbers mean."""
    c = report.conditions
    dtypes = ", ".join(sorted({row.dtype for row in report.rows if row.dtype}))
    tether = f", tethered with {c.tether:g} eV/Å²" if c.tether else ""
    return (
        f"{report.structure}. NVT {c.temperature:g} K, {c.timestep:g} fs, {c.steps} steps"
        f"{f' or {c.seconds:g} s' if c.seconds else ''}"
        f"{f' x {c.repeats} runs' if c.repeats > 1 else ''} in {c.blocks} interleaved blocks after "
        f"{c.warmup} of warm-up, seed {c.seed}{tether}; {c.ranks} MPI rank(s) x {c.threads} "
        f"thread(s){f', {dtypes}' if dtypes else ''}. Time: median over steps ± standard deviation "
        "of the blocks' medians; ns/day from LAMMPS' loop time."
    )


def markdown(report: Report, *, figure: str | None = None) -> str:
    """The report as a section of Markdown: table, phases, caption, command."""
    lines = [
        f"## {report.title}",
        "",
        *report_table(report),
        "",
        "Share of the loop time (%):",
        "",
        *phases_lines(report),
    ]
    if figure is not None:
        lines += ["", f"![{report.title}]({figure})"]
    lines += [
        "",
        caption(report).replace("\n", "\n\n"),
        "",
        f"`{report.command}`, {report.date} UTC",
    ]
    return "\n".join(lines) + "\n"


def report_table(report: Report, *, faster: bool = False) -> list[str]:
    """The main table as lines of Markdown; `faster` as for :func:`columns`."""
    cols = columns(report, faster=faster)
    return markdown_table(
        [f"{c.heading} ({c.unit})" if c.unit else c.heading for c in cols],
        [[column.text(row) for column in cols] for row in report.rows],
    )


def phases_lines(report: Report) -> list[str]:
    """Shares of the loop time as lines of Markdown."""
    names = phases_in(report.rows)
    return markdown_table(
        ["model", *names],
        [
            [row.label, *(f"{100 * row.phases.get(name, 0):.1f}" for name in names)]
            for row in report.rows
        ],
    )


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; all columns but the first are right-aligned."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (heads, rule, *rows)]


def save_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the target and move into place, so that no half-written file is ever seen."""
    with written_whole(path) as part:
        write(part)
