"""Fine-tuning beside training from scratch (``python -m results.experiments.fine_tuning``).

A small model of four metals is trained on many of their alloys, then fine-tuned on a few structures
of another alloy with an element that it does not have. Labels are those of ASE's effective medium
theory, so that it takes minutes and needs no data. It writes fine_tuning.md and fine_tuning.json;
runs that are there are not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console

from kan_md.benchmark.machine import describe_machine, machine_line
from kan_md.benchmark.report import markdown_table, save_atomically
from kan_md.benchmark.store import check_folder
from kan_md.config.sizes import size_content
from kan_md.errors import KanMdError
from results.experiments.zoo import run_kan_md

OLD = ("Cu", "Ag", "Au", "Ni")
NEW = ("Cu", "Pd")
SIZES = {"old": 120, "old_test": 40, "new": 16, "new_test": 60}
MODEL = {
    "backbone": "allegro",
    "r_max": 4.5,
    "l_max": 1,
    "num_layers": 1,
    "num_scalar_features": 16,
    "num_tensor_features": 8,
}
READOUT = {"kind": "kan", "basis": "gaussian"}
EPOCHS = {"old": 60, "new": 60, "local": 600}
HOW = """\
A small Allegro with a KAN readout, trained on {old} structures of copper, silver, gold, nickel
and their alloys, then fine-tuned on {new} of copper and palladium, an element that it does not
have. Labels are those of ASE's effective medium theory. Errors (MAE) on {new_test} other
structures of copper and palladium, and on {old_test} others of the metals of before: what has
been forgotten. Every run of it on the new alloy has {epochs} epochs and the same {new}
structures, of which every fourth chooses the best epoch; the learning rate is {scratch} from
scratch and {tuned} in fine-tuning. One seed.

The local potential is size tiny of `kan-md init`, whose cost the README tells; {local} epochs.
Taught means that it learns from {frames} more structures, {copies} perturbed ones of each of the
{new}, whose labels are those of the fine-tuned model (`kan-md data augment`), in as many steps of
the optimiser."""
RATES = {"scratch": 0.01, "tuned": 0.003}
TAUGHT = {"frames": 256, "copies": 16}
CASES = {
    "from scratch": {},
    "fine-tuned": {"init_from": True},
    "fine-tuned, fresh KAN readout": {"init_from": True, "fresh_readout": True},
    "fine-tuned, radial functions frozen": {"init_from": True, "freeze": "radial"},
    "fine-tuned, readout alone": {"init_from": True, "freeze": "backbone"},
    "fine-tuned, with 16 structures of before": {"init_from": True, "replay": 16},
    "local potential, from scratch": {"local": True},
    "local potential, taught by the fine-tuned one": {"local": True, "teacher": "fine-tuned"},
}


def labelled(atoms: Atoms) -> Atoms:
    """With energy, forces and stress of effective medium theory."""
    atoms.calc = EMT()
    labels = {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def alloys(elements: Sequence[str], count: int, *, seed: int) -> list[Atoms]:
    """Rattled, strained fcc cells of 8 atoms of two of the elements in any ratio."""
    rng = np.random.default_rng(seed)
    lattice = {"Cu": 3.6, "Ag": 4.09, "Au": 4.08, "Ni": 3.52, "Pd": 3.89}
    frames = []
    for _ in range(count):
        pair = rng.choice(elements, size=2, replace=False)
        symbols = rng.choice(pair, size=8, p=[share := rng.uniform(), 1.0 - share])
        a = np.mean([lattice[symbol] for symbol in symbols]) * rng.uniform(0.97, 1.05)
        atoms = bulk("Cu", "fcc", a=float(a), cubic=True).repeat((2, 1, 1))
        atoms.symbols[:] = symbols
        atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(0, rng.uniform(0.02, 0.15), atoms.positions.shape)
        frames.append(labelled(atoms))
    return frames


def configuration(case: str, work: Path) -> dict:
    """Content of the YAML file of a run; ``old`` is the first training."""
    is_old = case == "old"
    settings = {} if is_old else CASES[case]
    tuned = settings.get("init_from", False)
    data = {
        "train": str(work / ("old.xyz" if is_old else "new.xyz")),
        "split": {"train": 0.75, "val": 0.25, "test": 0.0},
    }
    if "replay" in settings:
        data |= {"replay": str(work / "old.xyz"), "replay_size": settings["replay"]}
    training = {
        "epochs": EPOCHS["old" if is_old else "new"],
        "batch_size": 4,
        "optimizer": {"lr": RATES["tuned" if tuned else "scratch"]},
        "seed": 1,
        "device": "cpu",
    }
    if settings.get("local"):
        return _local(settings.get("teacher"), data, training, work)
    if not tuned:
        return {"data": data, "model": MODEL, "readout": READOUT, "training": training}
    training |= {"init_from": str(work / "old" / "model.pth")}
    training |= {key: settings[key] for key in ("freeze", "fresh_readout") if key in settings}
    return {"data": data, "training": training}


def _local(teacher: str | None, data: dict, training: dict, work: Path) -> dict:
    """The local potential on the same structures, and on those of a teacher if there is one."""
    content = size_content("tiny")
    training |= {"optimizer": content["training"]["optimizer"], "epochs": EPOCHS["local"]}
    if teacher is not None:
        data["replay"] = str(augmented(teacher, work))
        data["replay_size"] = TAUGHT["frames"]
        own = SIZES["new"] * 3 // 4
        training["epochs"] = round(EPOCHS["local"] * own / (own + TAUGHT["frames"]))
    sections = {key: content[key] for key in ("model", "readout")}
    return {"data": data, **sections, "training": training}


def augmented(teacher: str, work: Path) -> Path:
    """Perturbed new structures with the labels of a model of this page."""
    path = work / "augmented.xyz"
    if not path.exists():
        arguments = ["--teacher", train(teacher, work), "--copies", TAUGHT["copies"], "-o", path]
        arguments += ["--displacement", 0.1, "--strain", 0.03]
        run_kan_md("data", "augment", work / "new.xyz", *arguments, what="augment", threads=1)
    return path


def train(case: str, work: Path) -> Path:
    """Train unless it is done; path of the model."""
    folder = work / case.replace(" ", "-").replace(",", "")
    model = folder / "model.pth"
    if not model.exists():
        config = work / f"{folder.name}.yaml"
        config.write_text(json.dumps(configuration(case, work)))  # JSON is YAML
        run_kan_md("train", config, "--output", folder, "--overwrite", what=case, threads=1)
    return model


def errors(model: Path, data: Path) -> dict[str, float] | None:
    """MAE of energies, eV/atom, and forces, eV/Å; None where it does not know an element."""
    from kan_md.data import read_frames
    from kan_md.evaluate.evaluation import evaluate_file
    from kan_md.model.checkpoint import load_checkpoint

    frames = read_frames([data])
    elements = {symbol for atoms in frames for symbol in atoms.symbols}
    if not elements <= set(load_checkpoint(model).type_names):
        return None
    found = evaluate_file(model, frames).errors
    return {name: found[name] for name in ("energy_mae", "forces_mae")}


def run(work: Path, console: Console) -> dict:
    """All runs and their errors."""
    sets = {"old": OLD, "old_test": OLD, "new": NEW, "new_test": NEW}
    for seed, (name, elements) in enumerate(sets.items()):
        path = work / f"{name}.xyz"
        if not path.exists():
            ase.io.write(path, alloys(elements, SIZES[name], seed=seed))
    rows = {}
    for case in ("old", *CASES):
        model = train(case, work)
        rows[case] = {
            name: errors(model, work / f"{name}.xyz") for name in ("new_test", "old_test")
        }
        console.print(f"{case}: {rows[case]}")
    return {"machine": machine_line(describe_machine()), "rows": rows}


def page(stored: dict) -> str:
    """Text of fine_tuning.md."""
    heads = [
        *("model", "Cu-Pd: E (meV/atom)", "F (meV/Å)"),
        *("Cu, Ag, Au, Ni: E (meV/atom)", "F (meV/Å)"),
    ]
    body = []
    for case, found in stored["rows"].items():
        row = ["before fine-tuning" if case == "old" else case]
        for name in ("new_test", "old_test"):
            values = found[name]
            row += (
                ["–", "–"]
                if values is None
                else [
                    f"{1e3 * values['energy_mae']:.3g}",
                    f"{1e3 * values['forces_mae']:.3g}",
                ]
            )
        body.append(row)
    how = HOW.format(**SIZES, **TAUGHT, epochs=EPOCHS["new"], local=EPOCHS["local"], **RATES)
    lines = ["# Fine-tuning", "", how, "", *markdown_table(heads, body), ""]
    lines += [f"Machine: {stored['machine']}; one thread, float32.", ""]
    lines += ["Made by `python -m results.experiments.fine_tuning`.", ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--work", type=Path, default=Path("build/fine_tuning"), help="runs")
    parser.add_argument("--draw", action="store_true", help="page of what is there, no more")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    path = options.output / "fine_tuning.json"
    try:
        check_folder(options.output)
        check_folder(options.work)
        if options.draw:
            stored = json.loads(path.read_text())
        else:
            stored = run(options.work.resolve(), console)
            text = json.dumps(stored, indent=1, ensure_ascii=False) + "\n"
            save_atomically(path, lambda part: part.write_text(text))
        save_atomically(path.with_suffix(".md"), lambda part: part.write_text(page(stored)))
    except KanMdError as error:
        if os.environ.get("KAN_MD_DEBUG"):
            raise
        console.print(f"kan-md: error: {error}", markup=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
