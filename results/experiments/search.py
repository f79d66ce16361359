"""Search for the best local potential by readout: one-layer MACE and small Allegro on four sets.

``python -m results.experiments.search --data FOLDER --output results`` trains what is missing, in
an order in which every prefix is a fair table, keeps a file per run in search/ and writes search.md
and search.png of what is there. It may be interrupted; ``--draw`` only writes the page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from rich.console import Console

from kan_md.benchmark.report import markdown_table, save_atomically
from kan_md.benchmark.store import check_folder
from kan_md.config.duration import parse_duration
from kan_md.config.sizes import SMALL_ALLEGRO
from kan_md.errors import KanMdError
from kan_md.figures import COLOURS, GREY, new_figure, plain_axes
from kan_md.figures import save_figure as save
from kan_md.runs import Record, Run, Store, run_missing
from kan_md.runs.statistics import Estimate, estimate, paired_change
from kan_md.runs.store import run_of
from results.experiments.data_sets import SETS, DataSet, add_data_option, check_data
from results.experiments.footer import footer

SEEDS = (1, 2, 3)
EPOCHS = 60
MACE = {
    "backbone": "mace",
    "r_max": 5.0,
    "num_layers": 1,
    "l_max": 3,
    "num_scalar_features": 16,
    "correlation": 3,
    "avg_num_neighbors": 2,
}
BY_MEAN = {key: value for key, value in MACE.items() if key != "avg_num_neighbors"}
ALLEGRO = SMALL_ALLEGRO | {"r_max": 5.0}
KAN = {"kind": "kan", "basis": "gaussian", "base": "none", "fit_grid": {}}
STAYING = {**KAN, "fit_grid": {"steps": [0, 100, 300], "every": None, "until": 0.8}}
"""Grids of the start: those of random weights."""
CONTROL = "linear"
SOAP = {"name": "soap", "lr": 0.003}
ERRORS = {
    "E (meV/atom)": ("energy_mae", 1e3),
    "F (meV/Å)": ("forces_mae", 1e3),
    "S (meV/Å³)": ("stress_mae", 1e3),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model of the search.

    Attributes:
        label: in tables.
        model: section of the configuration.
        readout: likewise.
        optimizer: name and largest learning rate.
        epochs: of the training.
        curvature: weight of the curvature of functions in the loss.
    """

    label: str
    model: dict
    readout: dict
    optimizer: dict = field(default_factory=lambda: SOAP)
    epochs: int = EPOCHS
    curvature: float = 0.0


LINEAR = {"kind": "linear"}
MLP = {"kind": "mlp", "hidden": [16]}
WIDE = {"kind": "mlp", "hidden": [64]}
ROOT = {"kind": "finnis_sinclair"}  # as Finnis and Sinclair, and ACE
READOUTS = [
    Row(label="KAN", model=MACE, readout=KAN),
    Row(label="MLP 16", model=MACE, readout=MLP),
    Row(label="square root", model=MACE, readout=ROOT),
    Row(label="linear", model=MACE, readout=LINEAR),
]
OF_START = [Row(label="KAN, grids of the start", model=MACE, readout=STAYING)]
SMOOTH = [replace(READOUTS[0], label="KAN, curvature 1", curvature=1.0)]
OLDER = [*OF_START, *READOUTS[1:]]  # scales were compared before grids followed
SIZES = [  # tiny and medium of the README, beside small
    Row(label=f"KAN, {size}", model={**MACE, **change}, readout=KAN)
    for size, change in (
        ("tiny", {"num_scalar_features": 8, "l_max": 2, "correlation": 2}),
        ("medium", {"num_scalar_features": 32}),
    )
]
MORE = [
    Row(label="KAN per element", model=MACE, readout={**KAN, "per_type": True}),
    Row(label="MLP 64", model=MACE, readout=WIDE),
]
# The size of the densities: grids are fitted to any, weights start at one.
LARGER, SMALLER = (
    [
        Row(
            label=f"{row.label}, divided by {norm}",
            model={**MACE, "avg_num_neighbors": norm},
            readout=row.readout,
        )
        for row in rows
    ]
    for norm, rows in ((1, [*READOUTS, *OF_START]), (6, OLDER))
)
MEAN = [
    Row(label=f"{label}, divided by their number", model=BY_MEAN, readout=readout)
    for label, readout in (
        *((row.label, row.readout) for row in OLDER),
        ("MLP 64", WIDE),
        ("KAN per element, grids of the start", {**STAYING, "per_type": True}),
        ("linear per element", {**LINEAR, "per_type": True}),
        ("square root per element", {**ROOT, "per_type": True}),
    )
]
RATES = [  # whether the learning rate is what one readout wins by
    Row(
        label=f"{row.label}, lr {lr}",
        model=MACE,
        readout=row.readout,
        optimizer={**SOAP, "lr": lr},
    )
    for lr in (0.01, 0.001)
    for row in READOUTS
]
LONGER = [  # and whether the number of epochs is
    Row(
        label=f"{row.label}, {3 * EPOCHS} epochs",
        model=MACE,
        readout=row.readout,
        epochs=3 * EPOCHS,
    )
    for row in (*READOUTS, *OF_START)
]
ADAMW = [  # and whether the optimiser is
    Row(
        label=f"{label}, AdamW{text}, divided by their number",
        model=BY_MEAN,
        readout=readout,
        optimizer={"lr": lr},
    )
    for label, readout, text, lr in (
        ("KAN, grids of the start", STAYING, "", 0.01),
        ("linear", LINEAR, "", 0.01),
        ("MLP 16", MLP, "", 0.01),
        ("MLP 64", WIDE, "", 0.01),
        ("KAN, grids from -2 to 2", {"kind": "kan", "basis": "gaussian"}, "", 0.01),
        ("KAN, grids of the start", STAYING, " lr 0.02", 0.02),
        ("KAN, grids of the start", STAYING, " lr 0.003", 0.003),
    )
]
ALLEGROS = [
    Row(label="Allegro, MLP", model=ALLEGRO, readout={"kind": "mlp"}),
    Row(label="Allegro, KAN", model=ALLEGRO, readout={"kind": "kan", "basis": "gaussian"}),
]
ROWS = [
    *READOUTS,
    *OF_START,
    *SMOOTH,
    *SIZES,
    *MORE,
    *LONGER,
    *LARGER,
    *SMALLER,
    *MEAN,
    *RATES,
    *ADAMW,
    *ALLEGROS,
]
# What differs in the readout alone comes first, on the two sets that differ most; a wave is done on
# all of its sets before the next seed of the same wave, and every prefix compares like with like.
WAVES: list[tuple[tuple[str, ...], list[Row], tuple[int, ...]]] = [
    (("HfO2", "Ag"), READOUTS, SEEDS),
    (("Ag", "HfO2"), LONGER, (1,)),
    (("HfO2", "Ag"), OF_START, SEEDS),
    (("Ag", "HfO2"), SMOOTH, SEEDS),
    (("Ag", "HfO2"), SIZES, (1,)),
    (("HfO2", "Ag"), LARGER[:4], SEEDS),
    (("Si", "C"), READOUTS, SEEDS),
    (("HfO2", "Ag"), MORE, (1,)),
    (("Ag", "HfO2"), RATES, (1,)),
    (("HfO2", "Ag"), READOUTS, (4, 5)),
    (("HfO2", "Ag"), LARGER[4:], (1,)),
    (("Ag", "HfO2"), SMALLER, (1,)),
    (("Ag", "HfO2"), MEAN, SEEDS),
    (("Ag", "HfO2"), ADAMW, (1,)),
    (("Ag", "HfO2"), ALLEGROS, SEEDS),
]


def configuration(row: Row, one: DataSet, seed: int, folder: Path) -> dict:
    """Content of the YAML file; what is divided how does not depend on the seed."""
    penalties = {"regularization": {"curvature": row.curvature}} if row.curvature else {}
    return {
        "data": one.section(folder),
        "model": row.model,
        "readout": row.readout,
        "training": {
            "loss": "balanced",
            "optimizer": row.optimizer,
            "batch_size": 2,
            "epochs": row.epochs,
            "seed": seed,
            "device": "cpu",
            **penalties,
        },
    }


def cases(waves: Sequence[int] = ()) -> Iterator[tuple[Row, DataSet, int]]:
    """Every run of the search, or of these waves, in the order in which they are trained."""
    for sets, rows, seeds in [WAVES[wave] for wave in waves] or WAVES:
        for seed in seeds:
            for name in sets:
                for row in rows:
                    yield row, SETS[name], seed


def runs(folder: Path, waves: Sequence[int] = ()) -> dict[tuple[str, str, int], Run]:
    """The runs by row, set and seed, those of sets that are not in the folder left out."""
    found = {}
    for row, one, seed in cases(waves):
        if (folder / one.train).is_file():
            name = f"{one.name}-{row.label.replace(', ', '-').replace(' ', '-')}-{seed}"
            found[row.label, one.name, seed] = Run(name, configuration(row, one, seed, folder))
    return found


Found = Mapping[tuple[str, str, int], Record]


def by_seed(found: Found, row: str, one: str, key: str, part: str = "test") -> dict[int, float]:
    """An error of a row on a set, by seed."""
    values = {}
    for (label, name, seed), record in found.items():
        if (label, name) == (row, one) and record.is_done:
            value = record.error(key, part)
            if value is not None:
                values[seed] = value
    return values


def page(found: Found, *, command: str) -> str:
    """Text of search.md."""
    done = [record for record in found.values() if record.is_done]
    lines = [
        "# Local potentials by readout",
        "",
        "Test errors of a MACE of one layer (16 scalars, l_max 3, correlation 3, r_max 5 Å: "
        "`small` of the README, whose table says what it costs) by its readout, and of a small "
        "Allegro (l_max 1, 1 layer, "
        f"32/8), after {EPOCHS} epochs of SOAP with lr 0.003 (AdamW with 0.01 where the row says "
        "so: those are compared with nothing) unless the row says otherwise (`tiny` and `medium` "
        "are those of the README, too), with a cosine schedule, batches of 2, averaged weights and "
        "the balanced loss; the model is the one of the best validation epoch. MAE ± standard "
        "error over seeds; the columns with "
        "`against` are paired by seed. The best MLP is chosen by validation among all rows of "
        f"{EPOCHS} epochs, scales and learning rates included. Where a cell has no ±, there is one "
        "seed, and nothing follows from a small difference.",
        "",
        f"{len(done)} of {len(list(cases()))} runs are there. `square root` is a line and "
        "Finnis and Sinclair's square root of each scalar, as the atomic cluster expansion assumes "
        "it (`readout.kind: finnis_sinclair`). A linear map per element has no functions that a "
        "shared one has not, since the products before it have weights of each element.",
        "",
        "`divided by N` is `model.avg_num_neighbors: N`, what the sums over neighbours are divided "
        "by: 2 where the row does not say it, as in `kan-md init --size`. `divided by their "
        "number` is mace-torch's way (`auto`), which makes the densities that a readout gets as "
        "small as 0.01. Weights that start at one see a line there, while grids are fitted to "
        "inputs of any size: what a KAN is ahead by in those rows is this first of all, and a "
        "readout is to be judged by its best scale.",
        "",
        "Grids follow their inputs in the first tenth of a training, so that functions are curved "
        "where the atoms are. `grids of the start` are fitted to the densities of random weights "
        "and stay: on silver nearly all densities have left them at the end, so that most "
        "functions are lines there (`kan-md inspect --plot` shows it). Test errors hardly tell the "
        "two apart; [extrapolation](extrapolation.md) does.",
        "",
        "![test errors](search.png)",
        "",
    ]
    for one in SETS.values():
        rows = table(found, one.name)
        if rows:
            frames = ", ".join(f"{count} {part}" for part, count in one.frames.items())
            more = f", test set {one.test}" if one.test else ""
            lines += [f"## {one.name}", "", f"{one.about}; {frames} frames in blocks{more}.", ""]
            heads = ["readout", "parameters", "seeds", *ERRORS]
            heads += [f"F against {CONTROL}", "E against best MLP", "F against best MLP"]
            heads += ["s/epoch"]
            lines += [*markdown_table(heads, rows), ""]
    lines += [
        "s/epoch: one thread of a machine that did other work too, so only a scale.",
        "",
        *footer(found.values(), command),
    ]
    return "\n".join(lines)


def table(found: Found, one: str) -> list[list[str]]:
    """Rows of a set that have a run."""
    best = best_mlp(found, one)
    rows = []
    for row in ROWS:
        records = [r for (label, name, _), r in found.items() if (label, name) == (row.label, one)]
        records = [record for record in records if record.is_done]
        if not records:
            continue
        cells = [row.label, f"{records[0].results['parameters']:,}", str(len(records))]
        for key, factor in ERRORS.values():
            values = by_seed(found, row.label, one, key)
            cells.append(_text(estimate([factor * value for value in values.values()])))
        for other, key in (
            (CONTROL, "forces_mae"),
            (best, "energy_mae"),
            (best, "forces_mae"),
        ):
            alike = None if row in ADAMW else other
            cells.append(_change(found, one, row.label, alike, key))
        seconds = estimate([r.results["seconds"] / r.results["epochs"] for r in records])
        rows.append([*cells, _text(seconds, 2)])
    return rows


def best_mlp(found: Found, one: str) -> str | None:
    """The MLP of a set with the smallest mean force error on validation."""
    values = {
        row.label: by_seed(found, row.label, one, "forces_mae", "val")
        for row in ROWS
        if row.readout["kind"] == "mlp"
        and row.model["backbone"] == "mace"
        and row.epochs == EPOCHS
        and row not in ADAMW
    }
    values = {label: errors for label, errors in values.items() if errors}
    if not values:
        return None
    return min(values, key=lambda name: fmean(values[name].values()))


def _change(found: Found, one: str, row: str, other: str | None, key: str) -> str:
    if other is None or row == other:
        return "–"
    change = paired_change(by_seed(found, row, one, key), by_seed(found, other, one, key))
    return "–" if change is None else change.percent()


def _text(value: Estimate | None, digits: int = 3) -> str:
    return "–" if value is None else value.text(digits)


def save_figure(found: Found, path: Path) -> None:
    """Test errors of every seed as points over their mean, from zero; all of one optimiser."""
    shown = [name for name in SETS if table(found, name)]
    drawn = [row.label for row in ROWS if row not in ADAMW]
    panels = list(ERRORS.items())[:2]
    has = {
        one: [label for label in drawn if by_seed(found, label, one, "forces_mae")] for one in shown
    }
    most = max(map(len, has.values()))
    figure = new_figure(5.0 * max(1, len(shown)), max(5.6, 0.44 * most + 1.6))  # labels in lines
    axes = figure.subplots(len(panels), max(1, len(shown)), squeeze=False)
    for column, one in enumerate(shown):
        labels = has[one]
        for line, (label, (key, factor)) in enumerate(panels):
            axis = axes[line][column]
            plain_axes(axis, grid="x")
            for place, name in enumerate(reversed(labels)):
                values = [factor * v for v in by_seed(found, name, one, key).values()]
                colour = COLOURS[0] if "KAN" in name else GREY
                axis.barh(place, sum(values) / len(values), color=colour, alpha=0.35, height=0.7)
                axis.plot(values, [place] * len(values), "o", color=colour, markersize=4)
            axis.set_yticks(range(len(labels)), reversed(labels), fontsize="small")
            axis.set_xlim(left=0)
            axis.set_xlabel(f"test {label}")
            axis.set_title(one if line == 0 else "")
    save(figure, path)


def adopt(
    folder: Path, wanted: Mapping[tuple[str, str, int], Run], store: Store, commit: str
) -> int:
    """Take up finished runs of this search that ``kan-md train`` made elsewhere on this machine.

    Args:
        folder: whose folders hold the runs, at any depth.
        wanted: runs of the search.
        store: gets their records.
        commit: of the sources that made them.

    Returns:
        How many there were.
    """
    by_id = {run.id: run for run in wanted.values()}
    number = 0
    for metrics in sorted(folder.rglob("metrics.json")):
        run = run_of(metrics.parent, metrics.parent.name)
        if run.id in by_id and store.find(run) is None:
            store.adopt(metrics.parent, by_id[run.id].name, threads=1, commit=commit)
            number += 1
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--work", type=Path, default=Path("build/search"), help="trained models")
    numbers = range(len(WAVES))
    parser.add_argument("--wave", action="append", type=int, choices=numbers, help="repeatable")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each training")
    parser.add_argument("--budget", help="of all, like 8h; what is begun goes on next time")
    parser.add_argument("--adopt", type=Path, help="folder with runs that were made by hand")
    parser.add_argument("--commit", default="", help="of the sources that made them")
    parser.add_argument("--draw", action="store_true", help="page of what is there, no more")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    try:
        check_data(options.data, [one.train for one in SETS.values()])
        check_folder(options.output)
        store = Store(options.output / "search", options.work)
        wanted = runs(options.data)
        if options.adopt:
            console.print(f"{adopt(options.adopt, wanted, store, options.commit)} runs taken up")
        if not options.draw:
            budget = None if options.budget is None else parse_duration(options.budget)
            run_missing(
                list(runs(options.data, options.wave or ()).values()),
                store,
                jobs=options.jobs,
                threads=options.threads,
                budget=budget,
                console=console,
            )
        found = {key: record for key, run in wanted.items() if (record := store.find(run))}
        if not any(record.is_done for record in found.values()):
            raise KanMdError("no run of the search is there yet; leave out --draw")
        save_figure(found, options.output / "search.png")
        text = page(found, command="python -m results.experiments.search")
        save_atomically(options.output / "search.md", lambda part: part.write_text(text))
    except (KanMdError, ValueError) as error:
        console.print(f"kan-md: error: {error}", markup=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
