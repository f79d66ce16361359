"""Embedding functions of silver, explained: what a trained local potential has learned.

``python -m results.experiments.embedding --output results`` trains the small local potential on
silver with a vacancy, whose labels are an embedded-atom potential's, and with ``--data FOLDER`` on
first-principles silver, too; then it writes embedding.md, embedding.json and a figure of each set:
functions beside the published one, formulas for them, and errors without the least of them. What
is trained is not trained again. The first-principles set is not part of the project.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.eam import EAM
from ase.neighborlist import neighbor_list

from kan_md.benchmark.machine import describe_machine, machine_line
from kan_md.benchmark.report import markdown_table, save_atomically
from kan_md.benchmark.store import check_folder
from kan_md.config import load_config, parse_config
from kan_md.config.sizes import size_content
from kan_md.data import read_frames
from kan_md.data.ag_vacancy import silver_potential
from kan_md.data.splitting import split_indices
from kan_md.errors import KanMdError, user_error
from kan_md.evaluate.function_figure import draw_function
from kan_md.evaluate.functions import LearnedFunction, learned_functions
from kan_md.evaluate.pruning import pruned_errors
from kan_md.evaluate.symbolic import symbolic_fits
from kan_md.figures import INK, new_figure, save_figure
from kan_md.model.checkpoint import load_checkpoint
from results.experiments.data_sets import SETS, add_data_option
from results.experiments.zoo import run_kan_md

FIRST_PRINCIPLES = "Ag_pbe.xyz"
TITLES = {
    "ag_vacancy": "silver with a vacancy, labels of the embedded-atom potential Ag_u3 itself",
    "ag_pbe": "silver, labels of density functional theory (PBE)",
}
FRAMES = {"ag.xyz": {"train": 150, "val": 40, "test": 50}, FIRST_PRINCIPLES: SETS["Ag"].frames}
SEED = 1
EPOCHS = 60
PANELS = 8
ERRORS = {
    "energy MAE (meV/atom)": "energy_mae",
    "force MAE (meV/Å)": "forces_mae",
    "force RMSE (meV/Å)": "forces_rmse",
    "stress MAE (meV/Å³)": "stress_mae",
}


def configuration(data: Path) -> dict:
    """Content of the YAML file for ``kan-md train``: the small size, but for its budget."""
    content = size_content("small")
    split = {"method": "block", "blocks": 10, **FRAMES[data.name]}
    content["data"] = {"train": str(data), "split": split}
    content["training"] |= {"epochs": EPOCHS, "batch_size": 2, "seed": SEED, "device": "cpu"}
    del content["training"]["max_time"]
    return content


def train(data: Path, folder: Path) -> dict:
    """Errors and size of a model, which is trained unless it is there.

    Raises:
        KanMdError: the training failed, or the model that is there is of another configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run, config = folder / "run", folder / "config.yaml"
    wanted = configuration(data)
    if (run / "model.pth").exists():
        _check_same(run / "config.yaml", wanted)
    else:
        config.write_text(json.dumps(wanted))  # JSON is YAML
        run_kan_md("train", config, "--output", run, "--overwrite", what=folder.name)
    metrics = json.loads((run / "metrics.json").read_text())
    return {key: metrics[key] for key in ("errors", "structures", "parameters", "epochs")}


def explained(data: Path, folder: Path, figure: Path, title: str) -> dict:
    """What is known of a trained model: errors, functions, formulas, errors without functions.

    Args:
        data: the structures, labels included.
        folder: of the training.
        figure: gets the functions drawn.
        title: of the figure.
    """
    entry = train(data, folder)
    frames = read_frames(data)
    checkpoint = load_checkpoint(folder / "run" / "model.pth")
    learned = learned_functions(checkpoint, frames)
    published = eam_function(frames)
    draw([published, *learned], title, figure)
    chosen = split_indices(len(frames), FRAMES[data.name], method="block", blocks=10)["test"]
    tested = [frames[index] for index in chosen]
    return entry | {
        "functions": [function.as_json() for function in (published, *learned)],
        "formulas": [asdict(fit) for fit in symbolic_fits([published, *learned])],
        "pruned": [asdict(row) for row in pruned_errors(checkpoint, learned, tested)],
    }


def _check_same(path: Path, wanted: dict) -> None:
    """Refuse a run of another configuration; the device decides no number of the page."""
    wanted = {**wanted, "training": {**wanted["training"], "device": "cpu"}}
    found = load_config(path).model_dump(mode="json")
    found["training"]["device"] = "cpu"
    if found != parse_config(wanted).model_dump(mode="json"):
        raise user_error(
            "run of another configuration", found=path, allowed=None, remedy="remove its folder"
        )


def eam_function(frames: Sequence[Atoms]) -> LearnedFunction:
    """F(ρ) of Ag_u3 over the densities of the same atoms, without constant and line."""
    eam = EAM(potential=str(silver_potential()))
    densities = []
    for atoms in frames:
        centre, length = neighbor_list("id", atoms, float(eam.cutoff))
        shares = eam.electron_density[0](length)
        densities.append(np.bincount(centre, weights=shares, minlength=len(atoms)))
    rho = np.concatenate(densities)
    energy = eam.embedded_energy[0](rho)
    slope, constant = np.polyfit(rho, energy, 1)
    width = np.ptp(rho)
    argument = np.linspace(rho.min() - 0.04 * width, rho.max() + 0.04 * width, 201)
    curve = eam.embedded_energy[0](argument) - slope * argument - constant
    counts, edges = np.histogram(rho, 40)
    quantiles = np.quantile(rho, np.linspace(0, 1, 401))
    return LearnedFunction(
        place="Ag_u3",
        type_name="Ag",
        number=0,
        unit="eV",
        rows="atoms",
        argument=argument,
        curves=curve[None],
        slope=np.array([slope]),
        constant=np.array([constant]),
        contribution=float(np.std(energy - slope * rho)),
        spread=float(energy.std()),
        grid=(-np.inf, np.inf),
        outside=0.0,
        edges=edges,
        counts=counts,
        quantiles=quantiles,
        values=eam.embedded_energy[0](quantiles)[None],
        mean=float(energy.mean()),
        role="curve",
    )


def draw(functions: Sequence[LearnedFunction], title: str, path: Path) -> None:
    """The published function, then the learned ones that contribute most."""
    figure = new_figure(11.6, 5.4)
    for number, function in enumerate(functions[:PANELS]):
        axes = figure.add_subplot(2, PANELS // 2, number + 1)
        draw_function(axes, function, named=False)
        if number % (PANELS // 2) == 0:
            axes.set_ylabel("F − constant − line (meV)", fontsize=9, color=INK)
        if number == 0:
            axes.set_xlabel("density ρ of Ag_u3 (its own unit)", fontsize=9, color=INK)
    figure.suptitle(title, fontsize=10, color=INK)
    save_figure(figure, path)


def page(stored: dict) -> str:
    """Text of embedding.md."""
    lines = ["# The embedding functions of silver", "", *_HOW, ""]
    for name, entry in stored["sets"].items():
        lines += [f"## {TITLES[name][0].upper()}{TITLES[name][1:]}", ""]
        parts = ", ".join(f"{number} for {part}" for part, number in entry["structures"].items())
        test = entry["errors"]["test"]
        errors = "; ".join(f"{label} {1e3 * test[key]:.3g}" for label, key in ERRORS.items())
        lines += [f"Structures: {parts}; {entry['parameters']:,} parameters.", ""]
        lines += [f"Test errors: {errors}.", "", f"![functions](embedding-{name}.png)", ""]
        lines += [
            "Formulas over the arguments met, of the published function and of the learned "
            "ones that contribute most:",
            "",
            *_formulas(entry),
            "",
        ]
        lines += [
            "Test errors with functions left out, those that vary least first; what they "
            "were on average stays in the energy:",
            "",
            *_pruned(entry),
            "",
        ]
    lines += [*_READING, "", f"Machine: {stored['machine']}; one thread, float32."]
    made = f"Made by `python -m results.experiments.embedding`; mace-torch {version('mace-torch')}."
    return "\n".join([*lines, "", made, ""])


def _formulas(entry: dict) -> list[str]:
    rows = []
    sizes = {(f["place"], f["number"]): f for f in entry["functions"]}
    for fit in entry["formulas"][:PANELS]:
        function = sizes[fit["place"], fit["number"]]
        published = function is entry["functions"][0]
        beside = "–" if fit["r2_beside_line"] is None else f"{fit['r2_beside_line']:.4f}"
        rows.append(
            [
                "Ag_u3" if published else f"k = {fit['number'] + 1}",
                f"{1e3 * function['contribution']:.3g}",
                _curvature(function),
                f"{100 * function['outside']:.1f} %" if not published else "–",
                fit["form"] if fit["found"] else f"none (nearest: {fit['form']})",
                beside,
                f"`{fit['formula']}`" if fit["found"] else "–",
            ]
        )
    heads = ["function", "meV beside a line", "curvature", "outside its grid"]
    return markdown_table([*heads, "form", "R² beside a line", "formula (eV)"], rows)


def _pruned(entry: dict) -> list[str]:
    rows = [
        [
            f"{row['left_out']} of {row['of']}",
            f"{1e3 * row['energy_mae']:.3g}",
            f"{1e3 * row['forces_mae']:.3g}",
        ]
        for row in entry["pruned"]
    ]
    return markdown_table(["left out", "energy MAE (meV/atom)", "force MAE (meV/Å)"], rows)


def _curvature(function: dict) -> str:
    """Sign of a parabola through the function where its arguments are."""
    x, y = np.array(function["argument"]), np.array(function["curves"][0])
    edges, counts = np.array(function["edges"]), np.array(function["counts"], float)
    weights = np.interp(x, 0.5 * (edges[1:] + edges[:-1]), counts, left=0.0, right=0.0)
    square = np.polyfit(x - x.mean(), y, 2, w=np.sqrt(weights))[0]
    return "convex" if square > 0 else "concave"


_HOW = (
    "A local potential (`kan-md init --size small`: MACE of one layer, 16 scalar features, "
    "l_max 3, correlation 3, 5 Å; its readout is 16 functions F_k of densities ρ_k, their sum the "
    f"energy of an atom), {EPOCHS} epochs, batches of 2, seed {SEED}. In the figures the first "
    "panel is the embedding function of Ag_u3 (Foiles, Baskes, Daw, Phys. Rev. B 1986;33:7983; it "
    "ships with LAMMPS) over the densities that it gives the same atoms, the others are the "
    "model's functions over the densities that it has learned, those that contribute most first. "
    "Constant and line are taken out of all of them by least squares over the atoms; the number "
    "above a panel is what is left, as a root mean square over the atoms. Any model is looked at "
    "like this: `kan-md inspect model.pth --plot functions.png --symbolic --prune --data "
    "frames.xyz`.",
)
_READING = (
    "## What can be read from them, and what not",
    "",
    "- Where the functions are curved, the energy of an atom is no sum of body-ordered "
    "terms up to the model's correlation: the KAN adds what a linear readout cannot. The "
    "numbers say how much, in meV per atom, and the histograms where: outside of them the "
    "curve is an extrapolation, beyond the dotted ends of a grid a line by construction.",
    "- A convex function of a density to which every bond adds says what EAM says: each "
    "further bond adds less energy than the one before.",
    "- A single function has no meaning of its own. Lines move freely between the functions"
    " and the product basis, the sign and the scale of a learned density are arbitrary (a "
    "function may be mirrored), and densities are correlated, so that two functions can "
    "cancel in part: the sum is what was trained. Sizes above the panels do not add up.",
    "- A learned density is a many-body expansion up to four atoms, not EAM's sum over "
    "neighbours. So part of what EAM has in F is in ρ here, and curves need not coincide "
    "even where the labels are EAM's own. Signs and sizes compare; shapes only roughly.",
    "- Grids follow their densities in the first tenth of a training and stay then, while "
    "densities move on. Where a histogram lies beyond a dotted line, the function is a line for "
    "those atoms, and the KAN gains nothing there: a reason to look at this figure before adding "
    "functions.",
    "- A formula is a description of a curve where there were atoms, found in a small library by "
    "least squares. Several forms fit a curve of one bend; that one of them is a logarithm does "
    "not make the physics logarithmic, and it never replaces the function.",
    "- What can be left out for nothing says how many functions such a model needs, not which: a "
    "training from another seed leaves out others.",
    "- One seed. What the readout is worth in errors is in [search](search.md).",
    "- In Allegro the functions act on scalars of edges, and only a line is taken out; with"
    " hidden layers the figure shows the first layer alone, whose outputs are no energies.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--work", type=Path, default=Path("build") / "embedding")
    options = parser.parse_args(arguments)
    try:
        check_folder(options.output)
        check_folder(options.work)
        work = options.work.resolve()
        sets = {"ag_vacancy": work / "ag.xyz"}
        if not sets["ag_vacancy"].exists():
            run_kan_md("data", "ag-vacancy", sets["ag_vacancy"], what="ag-vacancy")
        if options.data and (options.data / FIRST_PRINCIPLES).is_file():
            sets["ag_pbe"] = (options.data / FIRST_PRINCIPLES).resolve()
        stored: dict = {"machine": machine_line(describe_machine()), "sets": {}}
        for name, data in sets.items():
            figure = options.output / f"embedding-{name}.png"
            stored["sets"][name] = explained(data, work / name, figure, TITLES[name])
    except KanMdError as error:
        sys.stderr.write(f"kan-md: error: {error}\n")
        return 2
    text = page(stored)
    save_atomically(options.output / "embedding.md", lambda part: part.write_text(text))
    for entry in stored["sets"].values():
        entry["functions"] = [_short(function) for function in entry["functions"][:PANELS]]
    content = json.dumps(stored, indent=1)
    save_atomically(options.output / "embedding.json", lambda part: part.write_text(content))
    return 0


def _short(function: dict) -> dict:
    """Five digits, and no infinite ends: JSON has none."""
    return json.loads(json.dumps(function), parse_float=lambda text: float(f"{float(text):.5g}"),
                      parse_constant=lambda _: None)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
