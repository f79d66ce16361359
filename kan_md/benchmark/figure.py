"""The charts of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kan_md.benchmark.compare import Report
from kan_md.benchmark.numbers import number, phases_in
from kan_md.benchmark.statistics import Row
from kan_md.figures import COLOURS, GREY, INK, bars, new_figure, plain_axes, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_READOUTS = ("kan gaussian", "kan bspline", "kan fourier", "mlp", "linear")
_GPU = "cuda_peak_allocated"
_TELLING = 0.05
"""Share of the time, or difference in memory, below which a panel says nothing."""


def save_report_figure(report: Report, path: Path) -> None:
    """Write the charts of a report in the format that the ending of the file says."""
    save_figure(draw_figure(report), path)


def draw_figure(report: Report) -> Figure:
    """Bars from zero: time with errors; memory and phases where they tell the models apart."""
    rows = report.rows
    panels: list[Callable[[Axes], None]] = [lambda axes: _draw_times(axes, report)]
    remarks = []
    if _memory_tells(rows):
        panels.append(lambda axes: _draw_memory(axes, report))
    else:
        remarks.append(f"{_memory_name(rows)} {_span([_memory(row) for row in rows])} MiB")
    if any(1.0 - row.phases.get("Pair", 0.0) > _TELLING for row in rows):
        panels.append(lambda axes: _draw_phases(axes, rows))
    else:
        least = min(100 * row.phases.get("Pair", 0.0) for row in rows)
        remarks.append(f"≥ {int(least)} % of the time in the pair style")
    figure = new_figure(3.0 + 3.2 * len(panels), 1.5 + 0.36 * len(rows))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for number_of_panel, (axis, draw) in enumerate(zip(axes, panels, strict=True)):
        draw(axis)
        if number_of_panel:
            axis.tick_params(labelleft=False)
    figure.suptitle(report.title, fontsize=11)
    if remarks:
        figure.supxlabel("; ".join(remarks), fontsize=8.5, color=INK)
    return figure


def row_colours(report: Report) -> list[str]:
    """One colour per kind of output block; grey for what is compared with."""
    rest = list(COLOURS[len(_READOUTS) :])
    known = dict(zip(_READOUTS, COLOURS, strict=False))
    return [
        GREY if row.label == report.control else known.get(row.readout, rest[0])
        for row in report.rows
    ]


def _draw_times(axes: Axes, report: Report) -> None:
    rows = report.rows
    texts = [number(row.ms_per_step) for row in rows]
    for index, row in enumerate(rows):
        if row.ratio is not None and row.label != report.control:
            texts[index] += f"  × {row.ratio:.{0 if row.ratio >= 100 else 2}f}"
    bars(
        axes,
        [row.label for row in rows],
        [row.ms_per_step for row in rows],
        errors=[row.ms_error for row in rows],
        colours=row_colours(report),
        unit="time (ms/step)",
        texts=texts,
    )


def _draw_memory(axes: Axes, report: Report) -> None:
    values = [_memory(row) for row in report.rows]
    bars(
        axes,
        [row.label for row in report.rows],
        values,
        colours=row_colours(report),
        unit=f"{_memory_name(report.rows)} (MiB)",
        texts=[f"{value:.0f}" for value in values],
    )


def _draw_phases(axes: Axes, rows: Sequence[Row]) -> None:
    left = [0.0] * len(rows)
    for name, colour in zip(phases_in(rows), (*COLOURS, GREY), strict=False):
        widths = [100 * row.phases.get(name, 0.0) for row in rows]
        axes.barh(range(len(rows)), widths, left=left, height=0.7, color=colour, label=name)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("share of the loop time (%)")
    axes.set_xlim(0, 100)
    axes.legend(fontsize=8, ncols=3, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    plain_axes(axes, grid="none")
    axes.tick_params(axis="y", length=0)


def _memory(row: Row) -> float:
    return row.device_mib.get(_GPU, row.peak_rss_mib)


def _memory_name(rows: Sequence[Row]) -> str:
    on_gpu = any(_GPU in row.device_mib for row in rows)
    return "peak GPU memory" if on_gpu else "peak memory of a rank"


def _memory_tells(rows: Sequence[Row]) -> bool:
    values = [_memory(row) for row in rows]
    return max(values) > (1.0 + _TELLING) * min(values)


def _span(values: Sequence[float]) -> str:
    low, high = (f"{value:.0f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
