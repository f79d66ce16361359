"""What local potentials of silver say about silver, calculated in LAMMPS.

``python -m results.experiments.properties --output results`` trains one-layer MACE models by
readout on labels of an embedded-atom potential, whose own properties are known exactly, and with
``--data FOLDER`` on first-principles labels; it deploys them, calculates crystals, defects, phonons
and melting, and writes properties.md, properties.json and figures. What is there is not done again;
trained models are those of the search where its folder still has them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ase.data import atomic_masses, atomic_numbers
from rich.console import Console

from kan_md.benchmark.machine import describe_machine
from kan_md.benchmark.models import Entry, baseline_entry, deployed_entry
from kan_md.benchmark.report import save_atomically
from kan_md.benchmark.store import check_folder
from kan_md.config.duration import parse_duration
from kan_md.errors import KanMdError
from kan_md.files import written_whole
from kan_md.runs import Run, Store, run_missing
from results.experiments.data_sets import SETS, DataSet, add_data_option
from results.experiments.mechanics.melting import Metal, Setting, melting_temperature
from results.experiments.mechanics.worker import properties_of
from results.experiments.properties_page import page, save_figures
from results.experiments.search import READOUTS, SEEDS, configuration
from results.experiments.zoo import run_kan_md

SYMBOL = "Ag"
MASS = float(atomic_masses[atomic_numbers[SYMBOL]])
GUESS_OF_A = 4.12
"""Å, between experiment and PBE."""
GUESS_OF_MELTING = 1000.0
"""K; the runs go on from where one phase eats the other."""
ROWS = {row.label: row for row in READOUTS if row.label in ("KAN", "linear", "MLP 16")}
PBE = SETS["Ag"]
EAM = DataSet(
    name="Ag_u3",
    train="ag_vacancy.xyz",
    frames={"train": 150, "val": 40, "test": 50},
    about="silver with a vacancy, 71 atoms at 300 to 1,200 K, labels of Ag_u3",
)


@dataclass(frozen=True, kw_only=True)
class Potential:
    """A row of the page.

    Attributes:
        key: in the stored results.
        labels: name of the training set; Ag_u3 for that potential itself.
        readout: of the model; empty for the potential.
        seed: likewise.
        run: of the training; None for the potential.
    """

    key: str
    labels: str
    readout: str = ""
    seed: int = 0
    run: Run | None = None


def potentials(data: Path | None, work: Path, seeds: Sequence[int]) -> Iterator[Potential]:
    """Ag_u3 itself, then a model per set, seed and readout, in the order in which they are made."""
    yield Potential(key="Ag_u3", labels=EAM.name)
    sets = [(PBE, data)] if data is not None and (data / PBE.train).is_file() else []
    sets.append((EAM, work))
    for seed in seeds:
        for one, folder in sets:
            for label, row in ROWS.items():
                name = f"{one.name}-{label.replace(' ', '-')}-{seed}"
                yield Potential(
                    key=name,
                    labels=one.name,
                    readout=label,
                    seed=seed,
                    run=Run(name, configuration(row, one, seed, folder)),
                )


def entry_of(potential: Potential, store: Store, work: Path) -> Entry | None:
    """The potential for LAMMPS, deployed where that is still to be done; None if not trained."""
    if potential.run is None:
        return replace(baseline_entry("eam"), label=potential.key)
    model = store.model(potential.run)
    if model is None:
        return None
    file = work / "deployed" / f"{potential.key}-{potential.run.id}.pth"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        run_kan_md("deploy", model, "-o", file, what=f"deploying {potential.key}")
    return replace(deployed_entry(str(file)), label=potential.key)


def describe(potential: Potential, store: Store) -> dict:
    """What the page says of where a potential is from."""
    found = {key: getattr(potential, key) for key in ("labels", "readout", "seed")}
    if potential.run is not None:
        record = store.find(potential.run)
        found |= {
            "id": potential.run.id,
            "errors": record.results["errors"]["test"],
            "parameters": record.results["parameters"],
            "commit": record.commit,
        }
    return found


def measure(
    chosen: Sequence[Potential],
    stored: dict,
    store: Store,
    work: Path,
    *,
    setting: Setting,
    melting_seeds: int,
    keep: Path,
    console: Console,
) -> None:
    """Calculate what is missing, statics of all potentials first; each result is kept at once."""
    entries = {p.key: entry for p in chosen if (entry := entry_of(p, store, work)) is not None}
    for potential in chosen:
        entry = entries.get(potential.key)
        found = stored["potentials"].get(potential.key, {})
        same = found.get("id") == (potential.run.id if potential.run else None)
        if entry is None or (found and same):
            continue
        console.print(f"{potential.key}: crystals, defects, phonons", markup=False)
        found = describe(potential, store)
        found["properties"] = properties_of(entry, SYMBOL, GUESS_OF_A)
        stored["potentials"][potential.key] = found
        save(stored, keep)
    wanted = _melting(chosen, entries, melting_seeds)
    for potential in wanted:
        found = stored["potentials"][potential.key]
        if found.get("setting") == asdict(setting):
            continue
        console.print(f"{potential.key}: melting, {setting.atoms:,} atoms", markup=False)
        runs = melting_temperature(
            Metal(
                entry=entries[potential.key],
                symbol=SYMBOL,
                a=found["properties"]["a"],
                mass=MASS,
            ),
            work / "melting" / f"{potential.key}-{found.get('id', 'published')}",
            guess=GUESS_OF_MELTING,
            setting=setting,
        )
        found["melting"] = [asdict(run) | {"has_both": run.has_both} for run in runs]
        found["setting"] = asdict(setting)
        save(stored, keep)


def _melting(
    chosen: Sequence[Potential], entries: dict[str, Entry], number: int
) -> list[Potential]:
    """The first models of each set and readout, as many as are asked for, and Ag_u3 itself."""
    counted: dict[tuple[str, str], int] = {}
    wanted = []
    for potential in chosen:
        kind = (potential.labels, potential.readout)
        if potential.key in entries and counted.get(kind, 0) < number:
            counted[kind] = counted.get(kind, 0) + 1
            wanted.append(potential)
    return wanted


def save(stored: dict, path: Path) -> None:
    """Write the results, numbers to seven digits."""
    short = json.loads(json.dumps(stored), parse_float=lambda text: float(f"{float(text):.7g}"))
    with written_whole(path) as part:
        part.write_text(json.dumps(short, indent=1, ensure_ascii=False) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--work", type=Path, default=Path("build/search"), help="trained models")
    parser.add_argument("--seed", type=int, action="append", help="repeatable; default 1 2 3")
    parser.add_argument("--budget", help="of all trainings, like 1h; the same command goes on")
    parser.add_argument("--trained", action="store_true", help="only models that are there")
    parser.add_argument("--melting-seeds", type=int, default=1, help="per readout; 0 for none")
    usual = Setting()
    parser.add_argument("--across", type=int, default=usual.across, help="cells, of melting")
    parser.add_argument("--along", type=int, default=usual.along, help="cells; 400: 10^5 atoms")
    parser.add_argument("--steps", type=int, default=usual.steps, help="of melting")
    parser.add_argument("--draw", action="store_true", help="page of what is there, no more")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    path = options.output / "properties.json"
    setting = Setting(across=options.across, along=options.along, steps=options.steps)
    try:
        check_folder(options.output)
        check_folder(options.work)
        stored = json.loads(path.read_text()) if path.exists() else {"potentials": {}}
        if not options.draw:
            work = options.work.resolve()
            if not (work / EAM.train).exists():
                run_kan_md("data", "ag-vacancy", work / EAM.train, what="ag-vacancy")
            chosen = list(potentials(options.data, work, options.seed or SEEDS))
            store = Store(work / "records", work)
            wanted = [p.run for p in chosen if p.run is not None]
            if options.trained:
                wanted = [run for run in wanted if store.model(run) is not None]
            budget = None if options.budget is None else parse_duration(options.budget)
            run_missing(wanted, store, threads=1, budget=budget, console=console)
            stored["machine"] = describe_machine()
            measure(
                chosen,
                stored,
                store,
                work,
                setting=setting,
                melting_seeds=options.melting_seeds,
                keep=path,
                console=console,
            )
        if not stored["potentials"]:
            raise KanMdError("no potential was calculated yet; leave out --draw")
        save_figures(stored, options.output)
        text = page(stored, command="python -m results.experiments.properties")
        save_atomically(options.output / "properties.md", lambda part: part.write_text(text))
    except (KanMdError, ValueError) as error:
        console.print(f"kan-md: error: {error}", markup=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
