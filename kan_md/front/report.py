"""A front for the eye and for programs: table, sentences, Markdown, JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kan_md.benchmark.compare import Report
from kan_md.benchmark.machine import machine_line
from kan_md.benchmark.numbers import number, plus_minus
from kan_md.benchmark.report import conditions_line
from kan_md.files import write_text
from kan_md.front.figure import save_front_figure
from kan_md.front.points import ENERGY, FORCES, Point, budget_of, front_of, knee_of

if TYPE_CHECKING:
    from rich.table import Table

JSON_FILE = "front.json"
MARKDOWN_FILE = "front.md"
FIGURE_FILE = "front.png"
_HEADS = ("model", "µs per atom\nand step", "force MAE\n(meV/Å)", "energy MAE\n(meV/atom)",
          "best for\n(µs)", "parameters", "trained")  # fmt: skip
_NOISY = 0.2
"""Spread of a time, relative to it, of which a reader is told."""
_ON_SCREEN = 6
"""Columns that 80 characters hold."""


@dataclass(frozen=True, kw_only=True)
class Front:
    """All that was found.

    Attributes:
        title: of the figure, the data's names.
        points: models that were timed.
        failed: reasons why others were not, by the names of their sizes.
        unfinished: sizes that are not trained yet.
        test_structures: number that the errors are means over.
        seed: of the trainings.
        timing: the report of LAMMPS.
    """

    title: str
    points: list[Point]
    failed: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    test_structures: int
    seed: int
    timing: Report

    @property
    def front(self) -> list[Point]:
        """See :func:`kan_md.front.points.front_of`; by errors of forces."""
        return front_of(self.points)

    @property
    def knee(self) -> Point | None:
        """See :func:`kan_md.front.points.knee_of`."""
        return knee_of(self.front)

    def to_json(self) -> str:
        """All numbers with full precision, and which models make the front."""
        content = asdict(self) | {
            "front": [point.name for point in self.front],
            "knee": None if self.knee is None else self.knee.name,
        }
        return json.dumps(content, indent=1, ensure_ascii=False)


def screen_table(result: Front) -> Table:
    """The table for rich."""
    from rich import box
    from rich.table import Table

    table = Table(title=result.title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in _HEADS[:_ON_SCREEN]:
        table.add_column(head, justify="left" if head == "model" else "right", no_wrap=True)
    for row in _rows(result):
        table.add_row(*row[:_ON_SCREEN])
    return table


def choice_lines(result: Front, folder: Path) -> list[str]:
    """Which model to take, where it lies, and what is missing.

    Args:
        result: the front.
        folder: of the results, which goes before names of files.
    """
    lines = []
    for point in result.front:
        mark = " (knee)" if point == result.knee else ""
        budget = _budget(point, result.front)
        lines.append(f"{budget} µs/atom/step: take {point.name}{mark}, {folder / point.file}")
    if result.knee is None:
        few = len(result.front) < 3
        reason = f"{len(result.front)} model(s) on it" if few else "it does not bend towards zero"
        lines.append(f"no knee in this front: {reason}; the budget of time decides")
    else:
        lines.append(
            f"knee: {result.knee.name}; beyond it the same gain in accuracy costs more time"
        )
    noisy = [point.name for point in result.points if point.time_error > _NOISY * point.time]
    if noisy:
        lines.append(
            f"times of {', '.join(noisy)} varied by more than {_NOISY:.0%} within the run, as on a "
            "busy machine; the same command times again, without training"
        )
    lines += [f"{name} failed: {reason}" for name, reason in result.failed.items()]
    if result.unfinished:
        lines.append(f"not trained yet: {', '.join(result.unfinished)}; the same command goes on")
    return lines


def caption(result: Front) -> str:
    """What the numbers mean and how far they are to be trusted."""
    return (
        f"Errors: means over {result.test_structures} test structures, one training each (seed "
        f"{result.seed}), so that differences of a few percent mean nothing. Time: "
        f"{conditions_line(result.timing)}\n{machine_line(result.timing.machine)}"
    )


def save_front(result: Front, folder: Path) -> None:
    """Write figure, table and numbers, each whole; the numbers last."""
    save_front_figure(result.points, folder / FIGURE_FILE, title=result.title)
    lines = [
        f"# {result.title}",
        "",
        *_aligned([[head.replace("\n", " ") for head in _HEADS], *_rows(result)]),
        "",
        *[f"- {line}" for line in choice_lines(result, Path())],
        "",
        f"![{result.title}]({FIGURE_FILE})",
        "",
        caption(result).replace("\n", "\n\n"),
        "",
        f"`{result.timing.command}`, {result.timing.date} UTC",
    ]
    write_text(folder / MARKDOWN_FILE, "\n".join(lines) + "\n")
    write_text(folder / JSON_FILE, result.to_json() + "\n")


def _rows(result: Front) -> list[list[str]]:
    """Cells by rising time."""
    return [
        [
            point.name + (" (knee)" if point == result.knee else ""),
            plus_minus(point.time, point.time_error),
            _milli(point.errors.get(FORCES)),
            _milli(point.errors.get(ENERGY)),
            _budget(point, result.front),
            f"{point.parameters:,}",
            f"{point.epochs} epochs, {point.seconds:.0f} s",
        ]
        for point in sorted(result.points, key=lambda point: point.time)
    ]


def _budget(point: Point, front: Sequence[Point]) -> str:
    budget = budget_of(point, front)
    if budget is None:
        return "none"
    low, high = budget
    return f"from {number(low)}" if math.isinf(high) else f"{number(low)} to {number(high)}"


def _milli(value: float | None) -> str:
    return "–" if value is None else number(1e3 * value)


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table that is one to the eye, too; all columns but the first right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(f"{text:{'>' if i else '<'}{widths[i]}}" for i, text in enumerate(row))
        + " |"
        for row in cells
    ]  # fmt: skip
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [lines[0], "| " + " | ".join(rule) + " |", *lines[1:]]
