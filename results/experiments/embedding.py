"""Embedding functions of silver: a KAN's beside those of a published embedded-atom potential.

``python -m results.experiments.embedding --output results`` trains the small local potential on
silver with a vacancy, whose labels are an embedded-atom potential's, and with ``--data FOLDER`` on
first-principles silver, too; then it writes embedding.md, embedding.json and a figure of each set.
What is trained is not trained again. The first-principles set is not part of the project.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
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
from kan_md.errors import KanMdError, user_error
from kan_md.evaluate.function_figure import draw_function
from kan_md.evaluate.functions import LearnedFunction, learned_functions
from kan_md.figures import INK, new_figure, save_figure
from kan_md.model.checkpoint import load_checkpoint
from results.experiments.data_sets import add_data_option
from results.experiments.zoo import run_kan_md

FIRST_PRINCIPLES = "Ag_pbe.xyz"
TITLES = {
    "ag_vacancy": "silver with a vacancy, labels of the embedded-atom potential Ag_u3 itself",
    "ag_pbe": "silver, labels of density functional theory (PBE)",
}
SPLITS = {
    "ag.xyz": {"train": 150, "val": 40, "test": 50},
    FIRST_PRINCIPLES: {"train": 200, "val": 50, "test": 0.3},
}
READOUTS = {
    "KAN, grids fitted": {"kind": "kan", "basis": "gaussian", "fit_grid": {}},
    "KAN, grids from -2 to 2": {"kind": "kan", "basis": "gaussian"},
    "linear": {"kind": "linear"},
}
DRAWN = "KAN, grids fitted"
SEEDS = (1, 2)
EPOCHS = 12
PANELS = 8
ERRORS = {
    "energy MAE (meV/atom)": "energy_mae",
    "force MAE (meV/Å)": "forces_mae",
    "force RMSE (meV/Å)": "forces_rmse",
    "stress MAE (meV/Å³)": "stress_mae",
}


def configuration(data: Path, readout: str, seed: int) -> dict:
    """Content of the YAML file for ``kan-md train``: the small size, but for its budget."""
    content = size_content("small")
    content["data"] = {
        "train": str(data),
        "split": {"method": "block", **SPLITS[data.name]},
    }
    content["readout"] = READOUTS[readout]
    content["training"] |= {"epochs": EPOCHS, "seed": seed, "device": "cpu"}
    del content["training"]["max_time"]
    return content


def train(data: Path, readout: str, seed: int, folder: Path) -> dict:
    """Errors and size of a model, which is trained unless it is there.

    Raises:
        KanMdError: the training failed, or the model that is there is of another configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run, config = folder / "run", folder / "config.yaml"
    wanted = configuration(data, readout, seed)
    if (run / "model.pth").exists():
        _check_same(run / "config.yaml", wanted)
    else:
        config.write_text(json.dumps(wanted))  # JSON is YAML
        run_kan_md("train", config, "--output", run, "--overwrite", what=folder.name)
    metrics = json.loads((run / "metrics.json").read_text())
    found = {key: metrics[key] for key in ("errors", "structures", "parameters", "epochs")}
    return found | {"brought_in": not config.exists()}


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
        structures = next(iter(entry["cases"].values()))["structures"]
        parts = ", ".join(f"{count} for {part}" for part, count in structures.items() if count)
        lines += [f"Structures: {parts}. Test errors, mean over the seeds and each of them:", ""]
        lines += [*markdown_table(["readout", "seeds", "parameters", *ERRORS], _rows(entry)), ""]
        lines += [f"![embedding functions](embedding-{name}.png)", ""]
        lines += [_sizes(entry), ""]
        if any(case["brought_in"] for case in entry["cases"].values()):
            lines += [_BROUGHT_IN, ""]
    lines += [*_READING, "", f"Machine: {stored['machine']}; one thread, float32."]
    made = f"Made by `python -m results.experiments.embedding`; mace-torch {version('mace-torch')}."
    return "\n".join([*lines, "", made, ""])


def _rows(entry: dict) -> list[list[str]]:
    rows = []
    for readout in READOUTS:
        cases = [c for key, c in entry["cases"].items() if key.rpartition(", seed ")[0] == readout]
        if not cases:
            continue
        seeds = [key.rpartition(" ")[2] for key in entry["cases"] if key.startswith(readout + ",")]
        row = [readout, ", ".join(seeds), f"{cases[0]['parameters']:,}"]
        for error in ERRORS.values():
            values = [1e3 * case["errors"]["test"][error] for case in cases]
            text = f"{statistics.mean(values):.1f}"
            each = ", ".join(f"{value:.1f}" for value in values)
            row.append(f"{text} ({each})" if len(values) > 1 else text)
        rows.append(row)
    return rows


def _sizes(entry: dict) -> str:
    published, *learned = entry["functions"]
    curved = [
        f"k = {f['number'] + 1}: {1e3 * f['contribution']:.1f}, {_curvature(f)}"
        for f in learned[:4]
    ]
    return (
        f"Root mean square beside constant and line, meV, and curvature at the mean density: Ag_u3 "
        f"{1e3 * published['contribution']:.1f}, {_curvature(published)}; {'; '.join(curved)}."
    )


def _curvature(function: dict) -> str:
    """Sign of a parabola through the function where its arguments are."""
    x, y = np.array(function["argument"]), np.array(function["curves"][0])
    edges, counts = np.array(function["edges"]), np.array(function["counts"], float)
    weights = np.interp(x, 0.5 * (edges[1:] + edges[:-1]), counts, left=0.0, right=0.0)
    square = np.polyfit(x - x.mean(), y, 2, w=np.sqrt(weights))[0]
    return "convex" if square > 0 else "concave"


_HOW = (
    "A local potential (`kan-md init --size small`, but with SiLU beside each function, which the "
    "sizes leave out since: MACE of one layer, 16 scalar features, "
    f"l_max 3, correlation 3, 5 Å) with a Gaussian KAN, trained for {EPOCHS} epochs: short, "
    "to show functions, not to set a record. In the figures the first panel is the "
    "embedding function of Ag_u3 (Foiles, Baskes, Daw, Phys. Rev. B 1986;33:7983; it ships "
    "with LAMMPS) over the densities that it gives the same atoms, the others are the KAN's"
    " functions over the densities that the model has learned, those that contribute most "
    "first. Constant and line are taken out of all of them by least squares over the atoms;"
    " the number above a panel is what is left, as a root mean square over the atoms. Any "
    "model draws such a figure: `kan-md inspect model.pth --plot functions.png --data "
    "frames.xyz`.",
)
_BROUGHT_IN = (
    "Runs of this set were not trained by the script: `kan-md train` made them beforehand, and "
    "their recorded configurations are those of the script. Which commit made each is not known."
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
    "- Grids are fitted when training starts, and densities move on. Where a histogram lies beyond "
    "the dotted line, the function is a line for those atoms, and the KAN gains nothing there: a "
    "reason to look at this figure before adding functions.",
    "- The tables are of one or two seeds and short runs. A few strained structures decide the "
    "RMSE of the forces, and it does not gain where the mean does.",
    "- That the sizes of `kan-md init` fit their grids was decided when these test errors were "
    "known. For that choice they are no held-out test, and other data may say otherwise.",
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
        if not (work / "ag.xyz").exists():
            run_kan_md("data", "ag-vacancy", work / "ag.xyz", what="ag-vacancy")
        cases = [("ag_vacancy", work / "ag.xyz", DRAWN, SEEDS[:1])]
        first_principles = (options.data / FIRST_PRINCIPLES) if options.data else None
        if first_principles is not None and first_principles.is_file():
            cases += [("ag_pbe", first_principles.resolve(), name, SEEDS) for name in READOUTS]
        stored: dict = {"machine": machine_line(describe_machine()), "sets": {}}
        for name, data, readout, seeds in cases:
            entry = stored["sets"].setdefault(name, {"cases": {}})
            for seed in seeds:
                words = readout.replace(", ", "-").replace(" ", "-")
                place = work / f"{name}-{words}-{seed}"
                entry["cases"][f"{readout}, seed {seed}"] = train(data, readout, seed, place)
                if readout == DRAWN and seed == SEEDS[0]:
                    frames = read_frames(data)
                    learned = learned_functions(load_checkpoint(place / "run/model.pth"), frames)
                    functions = [eam_function(frames), *learned]
                    path = options.output / f"embedding-{name}.png"
                    draw(functions, TITLES[name], path)
                    entry["functions"] = [function.as_json() for function in functions]
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
