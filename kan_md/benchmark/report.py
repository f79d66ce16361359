"""A comparison for the eye: table on screen, Markdown, figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kan_md.benchmark.compare import Report
from kan_md.benchmark.machine import machine_line
from kan_md.benchmark.statistics import Row
from kan_md.files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

PHASES = ("Pair", "Neigh", "Comm", "Modify", "Output", "Other")
_COLOURS = ("#2f6690", "#d1495b", "#edae49", "#66a182", "#8d96a3", "#57415c")


@dataclass(frozen=True)
class Column:
    """One column of the table: heading, unit, and how a row fills it."""

    heading: str
    unit: str
    text: Callable[[Row], str]


def columns(report: Report) -> list[Column]:
    """Columns of the main table; those that no row can fill are left out."""
    ratio = [
        Column(
            f"ratio to {report.control}",
            "",
            lambda r: "" if r.ratio is None else f"{r.ratio:.3f} ± {r.ratio_error:.3f}",
        )
    ]
    device = [
        Column(heading, "MiB", lambda r, key=key: _number(r.device_mib.get(key)))
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
        Column("time", "ms/step", lambda r: f"{_number(r.ms_per_step)} ± {_number(r.ms_error)}"),
        Column("p95", "ms/step", lambda r: _number(r.ms_p95)),
        *(ratio if report.control else []),
        Column("per atom", "µs/step", lambda r: _number(r.us_per_atom_step)),
        Column("speed", "ns/day", lambda r: _number(r.ns_per_day)),
        Column("edges", "per atom", lambda r: f"{r.edges_per_atom:.1f}"),
        Column("peak RSS", "MiB", lambda r: f"{r.peak_rss_mib:.0f}"),
        *device,
    ]


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
    shown = [c for c in columns(report) if c.heading != "readout"]
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

    names = _phases_in(report.rows)
    table = Table(title="Share of the loop time (%)")
    table.add_column("model")
    for name in names:
        table.add_column(name, justify="right")
    for row in report.rows:
        table.add_row(row.label, *(f"{100 * row.phases.get(name, 0):.1f}" for name in names))
    return table


def caption(report: Report) -> str:
    """What the numbers mean and what they were measured with."""
    c = report.conditions
    dtypes = ", ".join(sorted({row.dtype for row in report.rows if row.dtype}))
    tether = f", tethered with {c.tether:g} eV/Å²" if c.tether else ""
    return (
        f"{report.structure}. NVT {c.temperature:g} K, {c.timestep:g} fs, {c.steps} steps"
        f"{f' or {c.seconds:g} s' if c.seconds else ''}"
        f"{f' x {c.repeats} runs' if c.repeats > 1 else ''} in {c.blocks} interleaved blocks after "
        f"{c.warmup} of warm-up, seed {c.seed}{tether}; {c.ranks} MPI rank(s) x {c.threads} "
        f"thread(s){f', {dtypes}' if dtypes else ''}. Time: median over steps ± standard deviation "
        "of the blocks' medians; ns/day from LAMMPS' loop time.\n" + machine_line(report.machine)
    )


def markdown(report: Report, *, figure: str | None = None) -> str:
    """The report as a section of Markdown: table, phases, caption, command."""
    cols = columns(report)
    names = _phases_in(report.rows)
    lines = [
        f"## {report.title}",
        "",
        *markdown_table(
            [f"{c.heading} ({c.unit})" if c.unit else c.heading for c in cols],
            [[column.text(row) for column in cols] for row in report.rows],
        ),
        "",
        "Share of the loop time (%):",
        "",
        *markdown_table(
            ["model", *names],
            [
                [row.label, *(f"{100 * row.phases.get(name, 0):.1f}" for name in names)]
                for row in report.rows
            ],
        ),
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


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; all columns but the first are right-aligned."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (heads, rule, *rows)]


def save_figure(report: Report, path: Path) -> None:
    """Write the charts of a report as PNG."""
    figure = draw_figure(report)
    save_atomically(path, lambda part: figure.savefig(part, dpi=150, format="png"))


def draw_figure(report: Report) -> Figure:
    """Bar charts from zero with units and error bars: time, memory, phases."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = report.rows
    figure = Figure(figsize=(12, 1.6 + 0.42 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    time, memory, phases = figure.subplots(1, 3, sharey=True)
    _bars(
        time,
        [row.label for row in rows],
        [row.ms_per_step for row in rows],
        errors=[row.ms_error for row in rows],
        unit="time (ms/step)",
    )
    device = any(row.device_mib for row in rows)
    _bars(
        memory,
        [row.label for row in rows],
        [row.device_mib.get("cuda_peak_allocated", 0.0) for row in rows]
        if device
        else [row.peak_rss_mib for row in rows],
        errors=None,
        unit="peak GPU memory, allocated (MiB)" if device else "peak resident memory (MiB)",
    )
    left = [0.0] * len(rows)
    for name, colour in zip(PHASES, _COLOURS, strict=True):
        if name not in _phases_in(rows):
            continue
        widths = [100 * row.phases.get(name, 0.0) for row in rows]
        phases.barh(range(len(rows)), widths, left=left, color=colour, label=name)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    phases.set_xlabel("share of the loop time (%)")
    phases.set_xlim(0, 100)
    phases.legend(fontsize="x-small", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    time.invert_yaxis()
    figure.suptitle(report.title, fontsize="medium")
    return figure


def save_ratio_figure(
    rows: Sequence[tuple[str, float, float]], path: Path, *, title: str, control: str
) -> None:
    """Bars of time ratios with error bars, from zero, with a line at one where that is in sight.

    Args:
        rows: (label, ratio, error).
        path: PNG to write.
        title: of the figure.
        control: what the ratios refer to.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.4 + 0.32 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    labels, ratios, errors = zip(*rows, strict=True)
    _bars(axes, labels, ratios, errors=errors, unit=f"time per step / {control} (1)")
    if axes.get_xlim()[1] > 1.0:
        axes.axvline(1.0, color="#333333", linewidth=1, linestyle="--")
    axes.invert_yaxis()
    axes.set_title(title, fontsize="medium")
    save_atomically(path, lambda part: figure.savefig(part, dpi=150, format="png"))


def save_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the target and move into place, so that no half-written file is ever seen."""
    with written_whole(path) as part:
        write(part)


def _bars(
    axes: Axes,
    labels: Sequence[str],
    values: Sequence[float],
    *,
    errors: Sequence[float] | None,
    unit: str,
) -> None:
    axes.barh(
        range(len(values)), values, xerr=errors, color=_COLOURS[0], capsize=3, ecolor="#333333"
    )
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel(unit)
    reach = max(
        (v + e for v, e in zip(values, errors or [0.0] * len(values), strict=True)), default=0
    )
    axes.set_xlim(0, 1.25 * reach or 1.0)
    for place, (value, error) in enumerate(zip(values, errors or [0.0] * len(values), strict=True)):
        axes.annotate(
            _number(value),
            (value + error, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )


def _phases_in(rows: Sequence[Row]) -> list[str]:
    return [name for name in PHASES if any(row.phases.get(name, 0.0) > 0 for row in rows)]


def _number(value: float | None) -> str:
    """Three significant digits, no exponent."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"
