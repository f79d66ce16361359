"""The figure of the functions that a KAN readout has learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from kan_md.evaluate.functions import LearnedFunction
from kan_md.figures import COLOURS, GREY, INK, new_figure, plain_axes, save_figure

_COLUMNS = 4
_MOST_PANELS = 24
"""In one figure; the types share them."""
_MOST_NAMED = 6
_BARS = "#d5dae1"
_ROLES = {"unused": "unused", "line": "a line"}
_WIDTH, _HEIGHT = 2.9, 2.35


def plot_functions(functions: Sequence[LearnedFunction], path: Path, *, title: str) -> None:
    """Draw functions over the histograms of their arguments, type by type.

    Args:
        functions: of all types, sorted within each, see
            :func:`kan_md.evaluate.functions.learned_functions`.
        path: of the figure.
        title: above it.
    """
    groups = [list(group) for _, group in groupby(functions, key=lambda f: f.type_name)]
    rows_each = max(1, _MOST_PANELS // _COLUMNS // len(groups))
    groups = [group[: rows_each * _COLUMNS] for group in groups]
    heights = [math.ceil(len(group) / _COLUMNS) for group in groups]
    figure = new_figure(_COLUMNS * _WIDTH, sum(heights) * _HEIGHT + 0.8)
    grid = figure.add_gridspec(sum(heights), _COLUMNS)
    row = 0
    for group, height in zip(groups, heights, strict=True):
        for number, function in enumerate(group):
            axes = figure.add_subplot(grid[row + number // _COLUMNS, number % _COLUMNS])
            draw_function(axes, function, named=len(groups) > 1)
            if number % _COLUMNS == 0:
                axes.set_ylabel(_unit_label(function), fontsize=9, color=INK)
        row += height
    figure.suptitle(title, fontsize=10, color=INK)
    save_figure(figure, path)


def draw_function(axes: Axes, function: LearnedFunction, *, named: bool) -> None:
    """One panel: curves, the histogram behind them, and where the grid ends.

    Args:
        axes: to draw on.
        function: what to draw.
        named: say the type.
    """
    behind = axes.twinx()
    behind.set_zorder(0)
    axes.set_zorder(1)
    axes.patch.set_visible(False)
    behind.stairs(function.counts, function.edges, fill=True, color=_BARS)
    behind.set_ylim(0, 1.6 * max(1, function.counts.max()))
    behind.set_axis_off()
    factor = 1e3 if function.unit else 1.0
    for number, curve in enumerate(function.curves):
        colour = COLOURS[number % len(COLOURS)] if function.role == "curve" else GREY
        width = 1.8 if len(function.curves) == 1 else 0.9
        axes.plot(function.argument, factor * curve, color=colour, linewidth=width)
    low, high = function.argument[[0, -1]]
    for end in function.grid:
        if low < end < high:
            axes.axvline(end, color=INK, linewidth=0.9, linestyle=":")
    axes.axhline(0.0, color=INK, linewidth=0.5)
    axes.set_xlim(low, high)
    plain_axes(axes, grid="none")
    axes.locator_params(axis="x", nbins=3)
    axes.locator_params(axis="y", nbins=4)
    axes.set_xlabel(_argument_label(function), fontsize=9, color=INK, labelpad=1)
    size = f"{factor * function.contribution:.3g}{' meV' if function.unit else ''}"
    place = [function.type_name] if named else []
    place += [function.place] if function.place else []
    role = [_ROLES[function.role]] if function.role in _ROLES else []
    axes.set_title(", ".join([*place, size, *role]), fontsize=9, color=INK)


def _argument_label(function: LearnedFunction) -> str:
    return rf"$\rho_{{{function.number + 1}}}$ of {function.rows}"


def _unit_label(function: LearnedFunction) -> str:
    return r"$F_k$ − line (meV)" if function.unit else "functions − lines (hidden units)"


def figure_title(functions: Sequence[LearnedFunction], name: str) -> str:
    """What the figure shows, in one or two lines."""
    first = functions[0]
    several = len(first.curves) > 1 or not first.unit
    what = (
        f"first layer of several: each colour goes to one hidden feature ({len(first.curves)})"
        if several
        else "embedding functions F_k without constant and line"
        if first.rows == "atoms"
        else "functions F_k of edge scalars without their line"
    )
    grids = any(np.isfinite(f.grid).any() and f.outside > 0 for f in functions)
    text = f"{name}: {what}; above each its root mean square over the {first.rows}"
    counts = {f.type_name: f"{int(f.counts.sum()):,} of {f.type_name}" for f in functions}
    numbers = ", ".join(list(counts.values())[:_MOST_NAMED])
    text += f"\ngrey: histogram of the arguments ({first.rows}: {numbers})"
    if any(f.role != "curve" for f in functions):
        text += "; grey curve: unused, or a line"
    return text + ("; dotted: end of the grid" if grids else "")
