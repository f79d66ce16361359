"""Learning curves of local potentials by readout: errors against the number of training frames.

``python -m results.experiments.learning_curves --data FOLDER --output results`` trains what is
missing, keeps a file per run in learning_curves/ and writes learning_curves.md and
learning_curves.png of what is there. Frames of a smaller set are some of those of a larger one, at
equal distances; validation and test are those of the search, whose runs are the last points.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from kan_md.benchmark.report import markdown_table, save_atomically
from kan_md.benchmark.store import check_folder
from kan_md.config.duration import parse_duration
from kan_md.data.splitting import split_indices
from kan_md.errors import KanMdError
from kan_md.figures import COLOURS, log_axis, new_figure, plain_axes, save_figure
from kan_md.runs import Record, Run, Store, run_missing
from kan_md.runs.statistics import estimate, paired_change
from results.experiments import search
from results.experiments.data_sets import SETS, DataSet, add_data_option, check_data
from results.experiments.footer import footer

SIZES = {"Ag": (30, 100), "HfO2": (30, 80), "Si": (20, 50)}
"""Training frames; those of the search come after."""
SEEDS = (1, 2, 3)
ROWS = search.READOUTS
KAN = ROWS[0].label
MARKERS = dict(zip((row.label for row in ROWS), "os^d", strict=True))
ERRORS = {"E (meV/atom)": "energy_mae", "F (meV/Å)": "forces_mae"}


@dataclass(frozen=True)
class Point:
    """One training of a curve."""

    label: str
    one: str
    size: int
    seed: int


def write_parts(one: DataSet, folder: Path, work: Path) -> dict[str, Path]:
    """Files of a set's validation and test part and of each smaller training part, by name.

    Frames are taken over as they are written in the file.
    """
    frames = list(_frames(folder / one.train))
    parts = split_indices(len(frames), one.frames, method="block", blocks=10)
    whole = parts["train"]
    for size in SIZES[one.name]:
        places = np.linspace(0, len(whole) - 1, size).round().astype(int)
        parts[str(size)] = whole[places]
    paths = {}
    for part, chosen in parts.items():
        path = paths[part] = work / f"{one.name}-{part}.xyz"
        text = "".join(frames[index] for index in chosen)
        save_atomically(path, lambda partial, text=text: partial.write_text(text))
    return paths


def _frames(path: Path) -> Iterator[str]:
    """The text of each frame of an extxyz file."""
    with path.open() as lines:
        for first in lines:
            yield "".join([first, *(next(lines) for _ in range(int(first) + 1))])


def configuration(content: dict, paths: dict[str, Path], point: Point) -> dict:
    """A configuration of the search on fewer frames, with as many optimiser steps."""
    files = {"train": str(point.size), "val": "val", "test": "test"}
    content["data"] = {part: str(paths[name]) for part, name in files.items()}
    training, batch = content["training"], content["training"]["batch_size"]
    whole = SETS[point.one].frames["train"]
    training["epochs"] = round(training["epochs"] * -(-whole // batch) / -(-point.size // batch))
    return content


def runs(folder: Path, work: Path, names: Sequence[str]) -> dict[Point, Run]:
    """What is trained, every prefix comparing readouts on the same frames and seed."""
    found = {}
    for name in names:
        one = SETS[name]
        paths = write_parts(one, folder, work)
        for seed in SEEDS:
            for size in SIZES[name]:
                for row in ROWS:
                    point = Point(row.label, name, size, seed)
                    content = search.configuration(row, one, seed, folder)
                    label = row.label.replace(" ", "-")
                    run = Run(f"{name}-{size}-{label}-{seed}", configuration(content, paths, point))
                    found[point] = run
    return found


Found = dict[Point, Record]


def errors(found: Found, label: str, one: str, size: int, key: str) -> dict[int, float]:
    """Test errors of a readout by seed, meV and Å."""
    return {
        point.seed: 1e3 * value
        for point, record in found.items()
        if (point.label, point.one, point.size) == (label, one, size)
        and record.is_done
        and (value := record.error(key, "test")) is not None
    }


def sizes(found: Found, one: str) -> list[int]:
    """Numbers of frames of a set that have a finished run."""
    return sorted({point.size for point, r in found.items() if point.one == one and r.is_done})


def page(found: Found, *, command: str) -> str:
    """Text of learning_curves.md."""
    lines = [
        "# Learning curves of local potentials by readout",
        "",
        "Test errors of the models of [search](search.md) (MACE of one layer, 16 scalars, l_max 3, "
        "correlation 3, 5 Å, sums over neighbours divided by 2) against the number of training "
        "frames. The frames of a smaller set are some of those of a larger one, at equal "
        "distances; validation and test set, optimiser and number of optimiser steps are the "
        "same, so that fewer frames are seen more often. The rows of most frames are runs of the "
        "search. MAE ± standard error over seeds; `against` is paired by seed. Without ± there is "
        "one seed, and nothing follows from a small difference.",
        "",
        "![learning curves](learning_curves.png)",
        "",
    ]
    for name in SIZES:
        if sizes(found, name):
            heads = ["frames", "readout", "seeds", *ERRORS, "E of the KAN against", "F"]
            lines += [f"## {name}", "", SETS[name].about + ".", ""]
            lines += [*markdown_table(heads, _rows(found, name)), ""]
    lines += [
        *footer(found.values(), command),
    ]
    return "\n".join(lines)


def _rows(found: Found, one: str) -> list[list[str]]:
    rows = []
    for size in sizes(found, one):
        for row in ROWS:
            by_key = {key: errors(found, row.label, one, size, key) for key in ERRORS.values()}
            seeds = by_key["forces_mae"]
            if not seeds:
                continue
            cells = [str(size), row.label, str(len(seeds))]
            cells += [estimate(list(values.values())).text() for values in by_key.values()]
            for key, values in by_key.items():
                change = paired_change(errors(found, KAN, one, size, key), values)
                own = row.label == KAN or change is None
                cells.append("–" if own else change.percent())
            rows.append(cells)
    return rows


def draw(found: Found, path: Path) -> None:
    """Mean test errors against frames, both logarithmic, with a point for each seed."""
    shown = [name for name in SIZES if sizes(found, name)]
    figure = new_figure(4.0 * len(shown), 6.4)
    axes = figure.subplots(len(ERRORS), len(shown), squeeze=False)
    for column, one in enumerate(shown):
        for line, (label, key) in enumerate(ERRORS.items()):
            axis = axes[line][column]
            plain_axes(axis)
            for number, row in enumerate(ROWS):
                known = {
                    size: errors(found, row.label, one, size, key) for size in sizes(found, one)
                }
                known = {size: list(values.values()) for size, values in known.items() if values}
                colour = COLOURS[number]
                means = [sum(values) / len(values) for values in known.values()]
                name = row.label
                axis.plot(list(known), means, color=colour, marker=MARKERS[row.label], label=name)
                for size, values in known.items():
                    axis.plot([size] * len(values), values, ".", color=colour, markersize=4)
            log_axis(axis.xaxis, whole=True)
            log_axis(axis.yaxis)
            axis.set_ylabel(f"test {label}")
            axis.set_xlabel("training frames")
            axis.set_title(one if line == 0 else "")
    axes[0][0].legend(fontsize="small", frameon=False)
    save_figure(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--work", type=Path, default=Path("build/learning_curves"))
    parser.add_argument(
        "--set", dest="sets", action="append", choices=list(SIZES), help="repeatable"
    )
    parser.add_argument(
        "--seeds", type=int, default=len(SEEDS), help="of each point, from the first"
    )
    parser.add_argument("--budget", help="of all, like 2h; what is begun goes on next time")
    parser.add_argument("--draw", action="store_true", help="page of what is there, no more")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    try:
        check_data(options.data, [SETS[name].train for name in SIZES])
        check_folder(options.output)
        work = options.work.resolve()
        check_folder(work)
        store = Store(options.output / "learning_curves", work)
        wanted = runs(options.data, work, list(SIZES))
        if not options.draw:
            chosen = [
                run
                for point, run in wanted.items()
                if point.one in (options.sets or SIZES) and point.seed <= options.seeds
            ]
            budget = None if options.budget is None else parse_duration(options.budget)
            run_missing(chosen, store, jobs=1, threads=1, budget=budget, console=console)
        found = {point: record for point, run in wanted.items() if (record := store.find(run))}
        whole = Store(options.output / "search", work)
        for (label, name, seed), run in search.runs(options.data).items():
            if label in MARKERS and name in SIZES and (record := whole.find(run)):
                found[Point(label, name, SETS[name].frames["train"], seed)] = record
        if not any(record.is_done for record in found.values()):
            raise KanMdError("no run of the curves is there yet; leave out --draw")
        draw(found, options.output / "learning_curves.png")
        text = page(found, command="python -m results.experiments.learning_curves")
        save_atomically(options.output / "learning_curves.md", lambda part: part.write_text(text))
    except (KanMdError, ValueError) as error:
        console.print(f"kan-md: error: {error}", markup=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
