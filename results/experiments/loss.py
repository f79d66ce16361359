"""Weights of energy, forces and stress, judged by the crystals that the potentials make.

``python -m results.experiments.loss --data FOLDER --output results`` trains every case with
`kan-md train` and writes loss.md, loss.json and loss.png. A second call does only what is missing.
The data sets are not part of the project: see --data.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.units import GPa
from rich.console import Console

from kan_md.benchmark.machine import machine_line
from kan_md.benchmark.report import markdown_table
from kan_md.calculator import KANCalculator
from kan_md.config.sizes import SMALL_ALLEGRO
from kan_md.model.checkpoint import load_checkpoint
from kan_md.runs import Record
from kan_md.train.balanced_weights import SHARES, SMALLEST
from results.experiments.crystals import cubic_constants, monoclinic_hafnia, relaxed_volume
from results.experiments.training import Study, fill_missing, save_bars

LOSSES: dict[str, object] = {
    "1 : 1 : 0.1": {"energy": 1, "forces": 1, "stress": 0.1},
    "10 : 1 : 100": {"energy": 10, "forces": 1, "stress": 100},
    "balanced": "balanced",
}
ALLEGRO = SMALL_ALLEGRO | {"r_max": 4.5}
MACE = {
    "backbone": "mace",
    "r_max": 4.5,
    "l_max": 2,
    "num_layers": 1,
    "num_scalar_features": 16,
    "radial_MLP": [32, 32],
}
MODELS = {"Allegro": ALLEGRO, "MACE": MACE}


@dataclass(frozen=True)
class DataSet:
    """A set of labelled structures and the crystal to judge by.

    Attributes:
        file: in the folder of the data.
        split: number of structures for training, validation and test.
        epochs: of training.
        crystal: from a calculator to numbers by name.
        reference: the same numbers from the labels, or from elsewhere.
        source: where the reference is from.
    """

    file: str
    split: dict[str, int]
    epochs: int
    crystal: Callable[[KANCalculator], dict[str, float]]
    reference: Callable[[list[Atoms]], dict[str, float]]
    source: str


def _cubic(structure: str, symbol: str, a: float) -> Callable[[KANCalculator], dict[str, float]]:
    return lambda calculator: asdict(cubic_constants(structure, symbol, a, calculator))


def silicon_reference(frames: list[Atoms]) -> dict[str, float]:
    """Lattice constant and elastic constants of the strained crystals of the set.

    C44 needs atoms at rest in a sheared cell, which the set does not have.
    """
    still = [atoms for atoms in frames if np.abs(atoms.get_forces()).max() < 1e-3]
    size = 2  # of the cells in lattice constants
    rest = min(still, key=lambda atoms: np.abs(atoms.get_stress()).max())
    a = rest.cell.lengths().mean() / size
    points = [
        (atoms.cell.lengths()[0] / (size * a) - 1, *atoms.get_stress()[:2] / GPa)
        for atoms in still
        if np.abs(atoms.cell.lengths()[1:] / (size * a) - 1).max() < 1e-4
    ]
    strain, along, across = np.array([p for p in points if abs(p[0]) < 0.05]).T
    c11, c12 = (np.polynomial.Polynomial.fit(strain, s, 2).deriv()(0.0) for s in (along, across))
    return {"a": float(a), "c11": float(c11), "c12": float(c12), "c44": 76.0}


def silver_reference(frames: list[Atoms]) -> dict[str, float]:
    """Published numbers."""
    return {"a": 4.147, "c11": 131.5, "c12": 97.3, "c44": 51.1}


def hafnia_reference(frames: list[Atoms]) -> dict[str, float]:
    """Volume at which the pressure of monoclinic structures with small forces vanishes."""
    points = []
    for atoms in frames:
        _, _, _, alpha, beta, gamma = atoms.cell.cellpar()
        monoclinic = abs(alpha - 90) < 2.5 and abs(gamma - 90) < 2.5 and 97 < beta < 102.5
        if monoclinic and np.sqrt(np.mean(atoms.get_forces() ** 2)) < 0.5:
            volume = 3 * atoms.get_volume() / len(atoms)
            points.append((np.log(volume), atoms.get_stress()[:3].mean()))
    line = np.polynomial.Polynomial.fit(*np.array(points).T, 1)
    return {"volume": float(np.exp(line.roots()[0]))}


SETS = {
    "Si": DataSet(
        "Si_mlearn.xyz",
        {"train": 191, "val": 24, "test": 24},
        40,
        _cubic("diamond", "Si", 5.47),
        silicon_reference,
        "a, C11 and C12 from the set's strained crystals; C44 of the set's authors (J. Phys. Chem. "
        "A 124, 731 (2020))",
    ),
    "Ag": DataSet(
        "Ag_pbe.xyz",
        {"train": 250, "val": 50, "test": 100},
        35,
        _cubic("fcc", "Ag", 4.15),
        silver_reference,
        "a by PBE (Phys. Rev. B 79, 085104 (2009)); elastic constants of experiment at 0 K (Phys. "
        "Rev. 111, 707 (1958)), above which PBE does not lie",
    ),
    "HfO2": DataSet(
        "HfO2.xyz",
        {"train": 120, "val": 30, "test": 150},
        30,
        lambda calculator: {"volume": relaxed_volume(monoclinic_hafnia, calculator) / 4},
        hafnia_reference,
        "volume per formula unit at which the stress of the set's monoclinic structures vanishes",
    ),
}
CASES = {
    f"{name}, {model}, {loss}": (name, model, loss)
    for model in MODELS
    for name in SETS
    for loss in LOSSES
    if model == "Allegro" or (name == "Si" and loss != "10 : 1 : 100")
}
ERRORS = {
    "E (meV/atom)": "energy_rmse",
    "F (meV/Å)": "forces_rmse",
    "S (meV/Å³)": "stress_rmse",
}
COLUMNS = {
    "a (Å)": ("a", 3),
    "volume (Å³)": ("volume", 2),
    "C11": ("c11", 0),
    "C12": ("c12", 0),
    "C44 (GPa)": ("c44", 0),
}


def configuration(name: str, model: str, loss: str, data: Path) -> dict:
    """Content of the YAML file for ``kan-md train``: README's recipe for all sets."""
    chosen = SETS[name]
    return {
        "data": {"train": str(data / chosen.file), "split": chosen.split},
        "model": MODELS[model],
        "readout": {"kind": "kan", "basis": "gaussian"},
        "training": {
            "loss": LOSSES[loss],
            "optimizer": {"lr": 0.005},
            "batch_size": 5,
            "epochs": chosen.epochs,
            "device": "cpu",
        },
    }


def finish(key: str, model: Path, record: Record) -> dict:
    """Relax a trained model's crystal; what is kept of both."""
    name, _, _ = CASES[key]
    weights = load_checkpoint(model).config["training"]["loss"]
    return {
        "errors": record.results["errors"],
        "seconds": record.results["seconds"],
        "weights": {label: weights[label] for label in SHARES},
        "crystal": SETS[name].crystal(KANCalculator(model)),
    }


def run(
    stored: dict, options: argparse.Namespace, console: Console, keep: Callable[[], None]
) -> None:
    """Train what is missing, and read the references out of the data."""
    stored["references"] = {
        name: found.reference(ase.io.read(options.data / found.file, ":"))
        for name, found in SETS.items()
    }
    cases = {key: configuration(*case, options.data) for key, case in CASES.items()}
    fill_missing(cases, stored["cases"], finish, keep=keep, options=options, console=console)


def deviation(case: dict, reference: dict[str, float]) -> float:
    """Relative error of the lattice constant, or a third of that of the volume."""
    name, power = ("a", 1) if "a" in reference else ("volume", 3)
    return (case["crystal"][name] / reference[name] - 1) / power


def save_figure(stored: dict, path: Path) -> None:
    """Errors of the lattice constant as bars from zero."""
    panels: dict[str, dict[str, tuple[float, float]]] = {}
    for name in SETS:
        found = {loss: stored["cases"].get(f"{name}, Allegro, {loss}", {}) for loss in LOSSES}
        panels[f"{name}: |error of a| (%)"] = {
            loss: (100 * abs(deviation(case, stored["references"][name])), 0.0)
            for loss, case in found.items()
            if "errors" in case
        }
    save_bars({label: rows for label, rows in panels.items() if rows}, path)


def page(stored: dict) -> str:
    """Text of loss.md."""
    lines = [
        "# Weights in the loss",
        "",
        "The loss is a weighted mean of squared errors of energies per atom, force components and "
        "stress components. Numbers that look alike, 1 : 1 : 0.1, leave the stress at 5e-5 of the "
        "sum, and nothing else in a set of disordered structures says so exactly how large a "
        "crystal is. `loss: balanced`, the default, divides each term by the variance of its "
        f"labels in the training set and gives energy {SHARES['energy']:g}, forces "
        f"{SHARES['forces']:g} and stress {SHARES['stress']:g} of that; the forces' weight is 1. "
        f"Energies count as varying by {SMALLEST['energy']:g} Å and stresses by "
        f"{SMALLEST['stress']:g}/Å² times the forces' spread at least.",
        "",
        *_table(stored),
        "",
        "Small models, minutes on one core, one seed: l_max 1, one layer, 32 scalar and 8 tensor "
        "features, Gaussian KAN (Allegro); one interaction, 16 scalars, l 2 (MACE); 4.5 Å. The "
        "recipe of the README (AdamW, 0.005, batches of 5, averaged weights) for all sets: the "
        "table compares weights, it does not show what the models can do. Errors are root mean "
        "squares over the test structures. Elastic constants by finite strain of ±0.5 %, atoms at "
        "rest. References: "
        + "; ".join(f"{name}: {found.source}" for name, found in SETS.items())
        + ".",
        "",
        "![errors of the lattice constant](loss.png)",
        "",
        *(f"Not there: {k}: {c['error']}\n" for k, c in stored["cases"].items() if "error" in c),
        f"Machine: {machine_line(stored['machine'])}.",
        "",
        f"Command: `{stored['command']}`",
        "",
    ]
    return "\n".join(lines)


def _table(stored: dict) -> list[str]:
    rows = []
    for name in SETS:
        reference = stored["references"][name]
        rows.append([name, "", "reference", "", *[""] * len(ERRORS), *_numbers(reference), ""])
        for key, (of, model, loss) in CASES.items():
            case = stored["cases"].get(key, {})
            if of != name or "errors" not in case:
                continue
            errors = [f"{1e3 * case['errors']['test'][error]:.1f}" for error in ERRORS.values()]
            used = " : ".join(f"{weight:g}" for weight in case["weights"].values())
            error = f"{100 * deviation(case, reference):+.2f} %"
            rows.append([name, model, loss, used, *errors, *_numbers(case["crystal"]), error])
    heads = ["set", "model", "loss", "weights E : F : S", *ERRORS, *COLUMNS, "error of a"]
    return markdown_table(heads, rows)


def _numbers(values: dict[str, float]) -> list[str]:
    return [
        f"{values[key]:.{digits}f}" if key in values else "" for key, digits in COLUMNS.values()
    ]


STUDY = Study(
    name="loss",
    description=__doc__.splitlines()[0],
    files=[found.file for found in SETS.values()],
    run=run,
    page=page,
    save_figure=save_figure,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
