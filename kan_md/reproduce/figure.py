"""Test errors of a table's rows: every seed a point, their mean a bar from zero."""

from __future__ import annotations

from pathlib import Path

from kan_md.figures import COLOURS, GREY, new_figure, plain_axes, save_figure
from kan_md.reproduce.report import Found


def save_errors(found: Found, path: Path) -> bool:
    """Write the figure of a table.

    Returns:
        Whether there was anything to draw.
    """
    rows = [row for row in found.table.rows if found.of_row(row.label)]
    if not rows:
        return False
    figure = new_figure(3.4 * len(found.errors) + 1.0, 0.9 + 0.38 * len(rows))
    axes = figure.subplots(1, len(found.errors), squeeze=False, sharey=True)[0]
    for axis, (label, key) in zip(axes, found.errors.items(), strict=True):
        plain_axes(axis, grid="x")
        for place, row in enumerate(reversed(rows)):
            values = [1e3 * value for value in found.by_seed(row.label, key, "test").values()]
            colour = COLOURS[0] if row.paper else GREY
            if values:
                axis.barh(place, sum(values) / len(values), color=colour, alpha=0.35, height=0.7)
                axis.plot(values, [place] * len(values), "o", color=colour, markersize=4)
        axis.set_yticks(range(len(rows)), [row.label for row in reversed(rows)])
        axis.set_xlim(left=0)
        axis.set_xlabel(f"test {label}")
    save_figure(figure, path)
    return True
