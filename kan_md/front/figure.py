"""The figure of a front: errors of held-out structures over time per atom and step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kan_md.figures import COLOURS, GREY, INK, log_axis, new_figure, plain_axes, save_figure
from kan_md.front.points import ENERGY, FORCES, Point, front_of, knee_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = ((FORCES, "held-out force MAE (meV/Å)"), (ENERGY, "held-out energy MAE (meV/atom)"))
_LEFT, _RIGHT = 0.08, 0.25
"""Room beside the outermost points, on the right for their names: of the range of ln(time)."""
_LEAST_RANGE = 0.5


def save_front_figure(points: Sequence[Point], path: Path, *, title: str) -> None:
    """Write the figure in the format that the ending of the file says."""
    save_figure(draw_front(points, title=title), path)


def draw_front(points: Sequence[Point], *, title: str) -> Figure:
    """A panel for forces and, where there are labels, one for energies.

    Each has the front of its own error; the knee is that of the forces in both.
    """
    panels = [
        (error, label)
        for error, label in _PANELS
        if any(math.isfinite(point.error(error)) for point in points)
    ]
    figure = new_figure(0.6 + 4.4 * len(panels), 3.9)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    backbones = dict.fromkeys(point.backbone for point in points)
    colours = dict(zip(backbones, COLOURS, strict=False))
    knee = knee_of(front_of(points))
    for axis, (error, label) in zip(axes, panels, strict=True):
        _draw(axis, points, error, colours=colours, knee=knee)
        axis.set_ylabel(label)
        axis.set_xlabel("time in LAMMPS, one thread (µs/atom/step)")
    if len(colours) > 1:
        for backbone, colour in colours.items():
            axes[0].scatter([], [], color=colour, label=backbone)
        figure.legend(loc="outside lower center", ncols=len(colours), fontsize=9, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def _draw(
    axes: Axes,
    points: Sequence[Point],
    error: str,
    *,
    colours: Mapping[str, str],
    knee: Point | None,
) -> None:
    shown = [point for point in points if math.isfinite(point.error(error))]
    front = front_of(shown, error)
    axes.plot(
        [point.time for point in front],
        [1e3 * point.error(error) for point in front],
        color=INK,
        linewidth=1.0,
        zorder=1,
    )
    for point in shown:
        colour = colours[point.backbone]
        place = (point.time, 1e3 * point.error(error))
        axes.errorbar(*place, xerr=point.time_error, color=colour, linewidth=1.0, zorder=2)
        filled = colour if point in front else "white"
        axes.scatter(*place, s=36, facecolor=filled, edgecolor=colour, linewidth=1.4, zorder=3)
        if point == knee:
            axes.scatter(*place, s=150, facecolor="none", edgecolor=INK, linewidth=1.2, zorder=3)
        axes.annotate(
            point.name + (" (knee)" if point == knee else ""),
            place,
            (7, 5),  # above a front that falls
            textcoords="offset points",
            fontsize=9,
            color=INK if point in front else GREY,
        )
    low, high = (pick(point.time for point in shown) for pick in (min, max))
    span = max(math.log(high / low), _LEAST_RANGE)
    axes.set_xlim(low * math.exp(-_LEFT * span), high * math.exp(_RIGHT * span))
    log_axis(axes.xaxis)
    axes.set_ylim(0.0, 1.2e3 * max(point.error(error) for point in shown) or 1.0)
    plain_axes(axes)
