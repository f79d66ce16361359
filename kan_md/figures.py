"""What all figures share: colours, axes, and files of any format by their ending."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kan_md.errors import user_error
from kan_md.files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5b4a8a")
"""Told apart by the colour-blind too (Okabe and Ito 2008); the yellow is left out: it is too light
for lines."""
GREY = "#8a8f98"
"""What is compared with."""
INK = "#30343b"
"""Lines that are no data."""
FORMATS = ("png", "pdf", "svg", "svgz", "eps", "ps", "jpg", "jpeg", "tif", "tiff", "webp")
_DPI = 200
_TICKS = ((12.0, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)), (300.0, (1.0, 2.0, 5.0)))
"""Ticks of a logarithmic axis within a power of ten, by the ratio of its ends."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches; belongs to no window and to no list of open figures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain_axes(axes: Axes, *, grid: str = "both") -> None:
    """Take off what carries no data, and put a faint grid behind what does."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    if grid != "none":
        axes.grid(axis=grid, color="#d9dce1", linewidth=0.6)
    axes.tick_params(labelsize=9, color=INK)


def log_axis(axis: Axis, *, whole: bool = False) -> None:
    """A logarithmic axis with plain numbers at its ticks, however few decades it spans.

    Args:
        axis: whose limits are those of the data.
        whole: it counts, so that 1.5 is no tick of it.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.axes.set_yscale("log") if axis.axis_name == "y" else axis.axes.set_xscale("log")
    low, high = sorted(axis.get_view_interval())
    ratio = high / low if low > 0 else 1.0
    ticks = next((subs for most, subs in _TICKS if ratio < most), (1.0,))
    axis.set_major_locator(LogLocator(subs=ticks))
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: "" if whole and value % 1 else f"{value:g}")
    )
    axis.set_minor_locator(LogLocator(subs="auto"))
    axis.set_minor_formatter(NullFormatter())


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure whole, in the format that the ending of its name says.

    Raises:
        KanMdError: no figure has that ending, or the file cannot be written.
    """
    import matplotlib as mpl

    check_figure_name(path)
    # Fonts as fonts, so that letters can be searched and edited.
    with mpl.rc_context({"pdf.fonttype": 42}), written_whole(path) as temporary:
        figure.savefig(temporary, dpi=_DPI)


def check_figure_name(path: str | Path, *, option: str = "--output") -> None:
    """Refuse the name of a figure whose ending is no format, before any work.

    Raises:
        KanMdError: the ending of the name is none of a figure.
    """
    if Path(path).suffix.lower().removeprefix(".") not in FORMATS:
        raise user_error(
            "ending of the figure's name",
            found=Path(path).name,
            allowed=", ".join(f".{name}" for name in FORMATS),
            remedy=f"e.g. {option} {Path(path).stem or 'figure'}.pdf",
        )


def bars(
    axes: Axes,
    labels: Sequence[str],
    values: Sequence[float],
    *,
    errors: Sequence[float] | None = None,
    colours: Sequence[str],
    unit: str,
    texts: Sequence[str],
) -> None:
    """Horizontal bars from zero, first one on top, each with its error bar and its number.

    Args:
        axes: to draw on.
        labels: [n], left of the bars.
        values: [n].
        errors: [n], or None.
        colours: [n].
        unit: label of the axis.
        texts: [n], right of the bars.
    """
    places = range(len(values))
    axes.barh(
        places,
        values,
        height=0.7,
        color=colours,
        xerr=errors,
        error_kw={"ecolor": INK, "elinewidth": 1.0, "capsize": 2.5},
    )
    axes.set_yticks(places, labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel(unit)
    ends = [v + e for v, e in zip(values, errors or [0.0] * len(values), strict=True)]
    axes.set_xlim(0, 1.3 * max(ends, default=0.0) or 1.0)
    for place, (end, text) in enumerate(zip(ends, texts, strict=True)):
        axes.annotate(
            text,
            (end, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK,
        )
    plain_axes(axes, grid="x")
    axes.tick_params(axis="y", length=0)
