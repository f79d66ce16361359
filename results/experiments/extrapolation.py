"""Extrapolation of local potentials by readout: silver at 300 K teaches, other silver is asked.

``python -m results.experiments.extrapolation --output results`` trains the small local potential by
readout on crystals with a vacancy at 300 K, whose labels are an embedded-atom potential's, and
tests it on hotter, strained, molten and cleaved silver with labels of the same potential. It keeps
a file per run in extrapolation/ and writes extrapolation.md and extrapolation.png of what is there.
No data beside the project's own are needed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import fcc111
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console
from rich.progress import track

from kan_md.benchmark.models import baseline_entry
from kan_md.benchmark.report import markdown_table, save_atomically
from kan_md.benchmark.store import check_folder
from kan_md.data import read_frames
from kan_md.data.ag_vacancy import LATTICE_CONSTANT, make_ag_vacancy
from kan_md.errors import KanMdError
from kan_md.evaluate.evaluation import evaluate_file
from kan_md.evaluate.functions import learned_functions
from kan_md.figures import COLOURS, log_axis, new_figure, plain_axes, save_figure
from kan_md.model.checkpoint import load_checkpoint
from kan_md.runs import Record, Run, Store, run_missing
from kan_md.runs.statistics import estimate
from kan_md.solve.refit import refit
from kan_md.solve.uncertainty import Uncertainty
from results.experiments.footer import footer
from results.experiments.peers.errors import predictions
from results.experiments.search import EPOCHS, MACE, OF_START, READOUTS, SMOOTH

ROWS = {row.label: row for row in (*READOUTS, *SMOOTH, *OF_START)}
SEEDS = (1, 2, 3)
TRAIN, VAL, TEST = 150, 40, 20  # frames
LIKE_TRAINING = "300 K"
KINDS = {
    LIKE_TRAINING: "as in training, other velocities and cells",
    "600 K": "",
    "900 K": "",
    "1200 K": "below the melting point",
    "3000 K": "molten in part",
    "94 %": "frames of 300 K, lengths times 0.94",
    "106 %": "frames of 300 K, lengths times 1.06",
    "(111)": "slabs of six layers, atoms displaced by 0.08 Å",
}
ERRORS = {"E (meV/atom)": "energy_mae", "F (meV/Å)": "forces_mae"}
_UNCERTAIN = 5
"""Frames of each kind whose standard deviations are calculated."""


def make_sets(folder: Path) -> dict[str, Path]:
    """Labelled structures by what they are; what is there is not made again."""
    paths = {name: folder / f"{number}.xyz" for number, name in enumerate(("train", "val", *KINDS))}
    for name, path in paths.items():
        if not path.exists():
            frames = list(_frames(name))
            save_atomically(path, lambda part, f=frames: ase.io.write(part, f, format="extxyz"))
    return paths


def _frames(name: str) -> Iterator[Atoms]:
    if name in ("train", "val"):
        size, seed = (TRAIN, 0) if name == "train" else (VAL, 1)
        yield from make_ag_vacancy(size, seed, temperatures=[300.0])
    elif name.endswith("K"):
        yield from make_ag_vacancy(TEST, 2, temperatures=[float(name.split()[0])])
    elif name.endswith("%"):
        frames = make_ag_vacancy(TEST, 2, temperatures=[300.0])
        for atoms in frames:
            atoms.set_cell(float(name.split()[0]) / 100 * atoms.cell, scale_atoms=True)
        yield from labelled(frames)
    else:
        size = (3, 3, 6)
        slabs = [fcc111("Ag", size, a=LATTICE_CONSTANT, vacuum=8.0, periodic=True)] * TEST
        slabs = [slab.copy() for slab in slabs]
        for seed, slab in enumerate(slabs):
            slab.rattle(0.08, seed=seed)
        yield from labelled(slabs)


def labelled(frames: Sequence[Atoms]) -> Iterator[Atoms]:
    """Structures with energies and forces of Ag_u3, by LAMMPS like those of the dynamics.

    ASE's form of the potential interpolates differently, by 2 meV per atom.
    """
    labels = predictions(baseline_entry("eam"), frames)
    for atoms, (energy, forces) in zip(frames, labels, strict=True):
        found = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True)
        found.calc = SinglePointCalculator(found, energy=energy, forces=forces)
        yield found


def runs(paths: dict[str, Path]) -> dict[tuple[str, int], Run]:
    """Trainings by readout and seed, all readouts of a seed before the next one."""
    return {
        (label, seed): Run(
            f"{label.replace(', ', '-').replace(' ', '-')}-{seed}",
            {
                "data": {part: str(paths[part]) for part in ("train", "val")},
                "model": MACE,
                "readout": row.readout,
                "training": {
                    "optimizer": row.optimizer,
                    "batch_size": 2,
                    "epochs": row.epochs,
                    "seed": seed,
                    "device": "cpu",
                    "regularization": {"curvature": row.curvature},
                },
            },
        )
        for seed in SEEDS
        for label, row in ROWS.items()
    }


def measure(model: Path, paths: dict[str, Path], *, is_kan: bool) -> dict[str, dict[str, float]]:
    """Errors by kind of structure; of a KAN also what notices that a structure is new.

    ``outside``: share of densities beyond the grids. ``sigma``: root mean square of the standard
    deviations of forces, eV/Å, of the readout solved for the training set.
    """
    found = {}
    sure = None
    if is_kan:
        solved = refit(
            load_checkpoint(model), read_frames(paths["train"]), read_frames(paths["val"])
        )
        sure = Uncertainty(solved.checkpoint)
    for kind in KINDS:
        frames = read_frames(paths[kind])
        errors = evaluate_file(model, frames).errors
        found[kind] = {key: errors[key] for key in ERRORS.values()}
        if sure is not None:
            functions = learned_functions(load_checkpoint(model), frames)
            found[kind]["outside"] = float(np.mean([function.outside for function in functions]))
            spreads = [sure(atoms)["forces_std"] for atoms in frames[:: TEST // _UNCERTAIN]]
            found[kind]["sigma"] = float(np.sqrt(np.mean(np.concatenate(spreads) ** 2)))
    return found


Found = dict[tuple[str, int], dict[str, dict[str, float]]]


def page(found: Found, records: Sequence[Record], *, command: str) -> str:
    """Text of extrapolation.md."""
    lines = [
        "# Extrapolation by readout",
        "",
        "One-layer MACE (`kan-md init --size small`: 16 scalars, l_max 3, correlation 3, 5 Å) "
        f"trained on {TRAIN} frames of 71 silver atoms with a vacancy at 300 K, {EPOCHS} epochs, "
        f"and tested on {TEST} frames of each kind below. All labels are those of Ag_u3, so the "
        "true answer is known everywhere. MAE, mean over the seeds ± standard error.",
        "",
        "![errors by distance from the training set](extrapolation.png)",
        "",
    ]
    for label, key in ERRORS.items():
        lines += [
            f"## {label}",
            "",
            *markdown_table(["kind", *_known(found)], _rows(found, key)),
            "",
        ]
    lines += [
        "## What notices it",
        "",
        "Share of the densities beyond the grids of the functions, where they are lines, and σ of "
        "force components in closed form (`kan-md refit`, calibrated on frames like the training's)"
        " beside the force error: mean over the seeds.",
        "",
        *markdown_table(_NOTICE_HEADS, _notices(found)),
        "",
        "Kinds: " + "; ".join(f"{kind}: {text}" for kind, text in KINDS.items() if text) + ".",
        "",
        *footer(records, command),
    ]
    return "\n".join(lines)


def _known(found: Found) -> list[str]:
    return [label for label in ROWS if any(key[0] == label for key in found)]


def _values(found: Found, label: str, kind: str, key: str) -> list[float]:
    return [
        by_kind[kind][key]
        for (name, _), by_kind in found.items()
        if name == label and key in by_kind[kind]
    ]


def _rows(found: Found, key: str) -> list[list[str]]:
    return [
        [
            kind,
            *(
                estimate([1e3 * v for v in _values(found, label, kind, key)]).text()
                for label in _known(found)
            ),
        ]
        for kind in KINDS
    ]


_NOTICE_HEADS = ["kind", "readout", "outside", "σ of F (meV/Å)", "F (meV/Å)"]


def _notices(found: Found) -> list[list[str]]:
    rows = []
    for kind in KINDS:
        for label in _known(found):
            outside = _values(found, label, kind, "outside")
            if outside:
                sigma = np.mean(_values(found, label, kind, "sigma"))
                error = np.mean(_values(found, label, kind, "forces_mae"))
                cells = [f"{100 * np.mean(outside):.0f} %", f"{1e3 * sigma:.3g}"]
                rows.append([kind, label, *cells, f"{1e3 * error:.3g}"])
    return rows


def draw(found: Found, path: Path) -> None:
    """Errors by kind and readout, logarithmic; a point for each seed."""
    figure = new_figure(9.0, 6.4)
    axes = figure.subplots(len(ERRORS), 1, sharex=True)
    labels = _known(found)
    for axis, (text, key) in zip(axes, ERRORS.items(), strict=True):
        plain_axes(axis, grid="y")
        for number, label in enumerate(labels):
            shift = 0.14 * (number - (len(labels) - 1) / 2)
            for place, kind in enumerate(KINDS):
                values = [1e3 * value for value in _values(found, label, kind, key)]
                name = label if place == 0 else None
                axis.plot(
                    [place + shift] * len(values), values, "o", color=COLOURS[number],
                    markersize=4, label=name,
                )  # fmt: skip
        log_axis(axis.yaxis)
        axis.set_ylabel(f"test {text}")
    axes[-1].set_xticks(range(len(KINDS)), list(KINDS))
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside upper center",
        fontsize="small",
        frameon=False,
        ncols=len(names),
    )
    save_figure(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--work", type=Path, default=Path("build/extrapolation"))
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many, from the first")
    parser.add_argument("--draw", action="store_true", help="page of what is there, no more")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    stored = options.output / "extrapolation.json"
    try:
        check_folder(options.output)
        work = options.work.resolve()
        check_folder(work)
        paths = make_sets(work)
        store = Store(options.output / "extrapolation", work)
        wanted = runs(paths)
        results = json.loads(stored.read_text()) if stored.exists() else {}
        if not options.draw:
            chosen = [run for (_, seed), run in wanted.items() if seed <= options.seeds]
            run_missing(chosen, store, jobs=1, threads=1, budget=None, console=console)
            trained = [
                (key, run, store.find(run)) for key, run in wanted.items() if store.model(run)
            ]
            new = [one for one in trained if one[2].id not in results]
            for (label, _), run, record in track(new, "testing", console=console):
                is_kan = ROWS[label].readout["kind"] == "kan"
                results[record.id] = measure(store.model(run), paths, is_kan=is_kan)
                text = json.dumps(results, indent=1)
                save_atomically(stored, lambda part, text=text: part.write_text(text))
        done = {key: record for key, run in wanted.items() if (record := store.find(run))}
        done = {key: record for key, record in done.items() if record.id in results}
        found = {key: results[record.id] for key, record in done.items()}
        if not found:
            raise KanMdError("no run of the extrapolation is there yet; leave out --draw")
        records = list(done.values())
        draw(found, options.output / "extrapolation.png")
        text = page(found, records, command="python -m results.experiments.extrapolation")
        save_atomically(options.output / "extrapolation.md", lambda part: part.write_text(text))
    except (KanMdError, ValueError) as error:
        console.print(f"kan-md: error: {error}", markup=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
