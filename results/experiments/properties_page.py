"""Text of the page on silver."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kan_md.benchmark.machine import machine_line
from kan_md.benchmark.report import markdown_table
from kan_md.runs.statistics import estimate
from results.experiments.data_sets import SETS
from results.experiments.mechanics.references import EAM, EXPERIMENT, PBE, Reference
from results.experiments.mechanics.solids import FACES
from results.experiments.properties_figures import (
    STYLES,
    TITLES,
    of,
    save_compression,
    save_melting,
    save_phonons,
)

COLUMNS: dict[str, tuple[str, int]] = {
    "a (Å)": ("a", 3),
    "B (GPa)": ("bulk_modulus", 0),
    "C11": ("c11", 0),
    "C12": ("c12", 0),
    "C44": ("c44", 0),
    "vacancy (eV)": ("vacancy", 2),
    "(111) (J/m²)": ("surface_111", 2),
    "(100)": ("surface_100", 2),
    "(110)": ("surface_110", 2),
}
"""Of the table of crystals, with their digits."""
WAVES = {
    "X transverse (THz)": ("X", 0),
    "X longitudinal": ("X", 2),
    "L transverse": ("L", 0),
    "L longitudinal": ("L", 2),
}
ERRORS = {
    "E (meV/atom)": "energy_mae",
    "F (meV/Å)": "forces_mae",
    "S (meV/Å³)": "stress_mae",
}
FIGURES: dict[str, Callable[[dict, Path], bool]] = {
    "properties-compression.png": save_compression,
    "properties-phonons.png": save_phonons,
    "properties-melting.png": save_melting,
}


def save_figures(stored: dict, folder: Path) -> None:
    """Draw what there is to be drawn."""
    for name, draw in FIGURES.items():
        draw(stored, folder / name)


def values_of(entry: dict) -> dict[str, float]:
    """Numbers of a calculated potential by the names of references."""
    found = entry["properties"]
    surfaces = {f"surface_{face}": value for face, value in found["surfaces"].items()}
    return {**found, **surfaces}


def page(stored: dict, *, command: str) -> str:
    """Text of properties.md."""
    lines = ["# Silver, as local potentials see it", "", *_HOW, ""]
    for labels, title in TITLES.items():
        if any(of(stored, labels, readout) for readout in ("", *STYLES)):
            lines += [f"## {title[0].upper()}{title[1:]}", "", _ABOUT[labels], ""]
            if any(of(stored, labels, readout) for readout in STYLES):
                lines += [*_errors(stored, labels), ""]
            lines += [*_crystals(stored, labels), "", *_phonons(stored, labels), ""]
    lines += ["![energy against volume](properties-compression.png)", ""]
    lines += ["![phonons](properties-phonons.png)", ""]
    melting = _melting(stored)
    if melting:
        lines += ["## Melting", "", *_MELTING, "", *melting, ""]
        if any(_both(entry) for entry in stored["potentials"].values()):
            lines += ["![temperature of crystal beside melt](properties-melting.png)", ""]
    lines += [*_READING, *_findings(stored), "", "## Sources", ""]
    lines += [f"- {one.label}: {one.source}." for one in (PBE, EXPERIMENT, EAM)]
    lines += ["", f"Machine: {machine_line(stored['machine'])}.", "", f"Command: `{command}`", ""]
    return "\n".join(lines)


def _errors(stored: dict, labels: str) -> list[str]:
    """Test errors of the models."""
    rows = []
    for readout in STYLES:
        found = of(stored, labels, readout)
        if not found:
            continue
        cells = [readout, f"{found[0]['parameters']:,}", ", ".join(str(e["seed"]) for e in found)]
        for key in ERRORS.values():
            value = estimate([1e3 * entry["errors"][key] for entry in found])
            cells.append(value.text(3))
        rows.append(cells)
    return markdown_table(["readout", "parameters", "seeds", *(f"test {e}" for e in ERRORS)], rows)


def _crystals(stored: dict, labels: str) -> list[str]:
    """Constants, vacancy and surfaces: published, of the labels' method, and of the models."""
    published = [EAM] if labels == "Ag_u3" else [PBE, EXPERIMENT]
    rows = [_published(one) for one in published]
    for readout in ("", *STYLES) if labels == "Ag_u3" else STYLES:
        found = of(stored, labels, readout)
        if found:
            cells = []
            for name, digits in COLUMNS.values():
                value = estimate([values_of(entry)[name] for entry in found])
                error = "" if value.error is None else f" ± {value.error:.{digits}f}"
                cells.append(f"{value.mean:.{digits}f}{error}")
            rows.append([readout or "Ag_u3, by this script", *cells])
    return markdown_table(["", *COLUMNS], rows)


def _published(one: Reference) -> list[str]:
    cells = []
    for name, digits in COLUMNS.values():
        cells.append(f"{one.values[name]:.{digits}f}" if name in one.values else "–")
    if "surface_mean" in one.values:  # of no direction
        cells[-3:] = [f"mean {one.values['surface_mean']:.2f}", "", ""]
    return [one.label, *cells]


def _phonons(stored: dict, labels: str) -> list[str]:
    rows = []
    for readout in ("", *STYLES) if labels == "Ag_u3" else STYLES:
        found = of(stored, labels, readout)
        if found:
            cells = []
            for point, branch in WAVES.values():
                special = [e["properties"]["phonons"]["special"][point][branch] for e in found]
                value = estimate(special)
                error = "" if value.error is None else f" ± {value.error:.2f}"
                cells.append(f"{value.mean:.2f}{error}")
            rows.append([readout or "Ag_u3", *cells])
    return markdown_table(["phonons", *WAVES], rows)


def _findings(stored: dict) -> list[str]:
    """What can be counted: the bulk modulus against the labels' method, the order of the faces."""
    truth = {"Ag": PBE.values["bulk_modulus"], "Ag_u3": EAM.values["bulk_modulus"]}
    lines = []
    for labels, title in TITLES.items():
        found = {readout: of(stored, labels, readout) for readout in STYLES}
        found = {readout: entries for readout, entries in found.items() if entries}
        if not found:
            continue
        softer, ordered = [], []
        for readout, entries in found.items():
            moduli = [entry["properties"]["bulk_modulus"] for entry in entries]
            change = estimate([value / truth[labels] - 1 for value in moduli])
            softer.append(f"{readout} {change.percent()}")
            faces = [[e["properties"]["surfaces"][face] for face in FACES] for e in entries]
            number = sum(values == sorted(values) for values in faces)
            ordered.append(f"{readout} {number} of {len(entries)}")
        lines.append(
            f"- {title[0].upper()}{title[1:]}: bulk modulus against that of the labels' method: "
            f"{'; '.join(softer)}. Seeds whose surfaces cost more the more bonds they cut, (111) "
            f"before (100) before (110): {'; '.join(ordered)}."
        )
    return lines


def _both(entry: dict) -> bool:
    return bool(entry.get("melting")) and entry["melting"][-1]["has_both"]


def _melting(stored: dict) -> list[str]:
    """A row per run, those that lost a phase too."""
    rows = []
    for entry in stored["potentials"].values():
        name = "Ag_u3"
        if entry["readout"]:
            name = f"{entry['readout']}, {TITLES[entry['labels']]}, seed {entry['seed']}"
        for run in entry.get("melting", []):
            found = f"{run['temperature']:.0f} ± {run['error']:.0f}"
            rows.append(
                [
                    name,
                    found if run["has_both"] else f"not {found}: one phase is gone",
                    *(f"{run['guess']:.0f}", f"{100 * run['crystal']:.0f} %"),
                    *(f"{run['atoms']:,}", f"{run['time']:.0f}"),
                    *(f"{run['pressure']:.0f}", f"{run['drift']:+.2f}"),
                ]
            )
    if not rows:
        return []
    for one in (EAM, EXPERIMENT):
        rows.append([one.label, f"{one.values['melting']:.0f}", *[""] * 6])
    heads = ["", "melting (K)", "from (K)", "crystal at the end", "atoms", "ps"]
    return markdown_table([*heads, "pressure (bar)", "drift (meV/atom)"], rows)


_PARTS = ", ".join(f"{count} {part}" for part, count in SETS["Ag"].frames.items())
_HOW = (
    "What such potentials are used for: MACE of one layer (16 scalars, l_max 3, correlation 3, "
    "5 Å: `kan-md init --size small`) by its readout, trained as in [search](search.md), deployed "
    "in float32 and run in LAMMPS, which gives every energy, force and stress of this page. "
    "Values are means over the seeds ± standard error.",
    "",
    "Elastic constants: strains of ±0.5 %, atoms at rest. B: Birch and Murnaghan's equation "
    "through ±3 % in length. Vacancy: 500 sites, cell and atoms relaxed. Surfaces: slabs of 16 "
    "layers, relaxed, no reconstruction. Phonons: phonopy, one displacement of 0.02 Å in 500 "
    "atoms. The script is checked by a published embedded-atom potential, Ag_u3, whose numbers it "
    "has to return (a test holds it to them).",
)
_ABOUT = {
    "Ag": "Silver in many structures, 16 to 64 atoms, PBE "
    f"({_PARTS} frames in blocks): many crystal structures, strained and disordered. Four of the "
    "501 frames are fcc crystals of 24 atoms.",
    "Ag_u3": "A potential of the embedded-atom method that LAMMPS ships: the check of this page, "
    "and a teacher whose own properties are known. Models learn from 71 atoms of fcc silver with a "
    "vacancy at 300 to 1,200 K and small strains "
    "(`kan-md data ag-vacancy`; 150 train, 40 val, 50 test): crystals and vacancies are in these "
    "data, surfaces and large compressions are not. Models that are not in the table were not "
    "trained yet.",
}
_MELTING = (
    "Crystal and melt side by side at constant enthalpy and zero pressure "
    "(`kan-md inputs melting.in`), 3 fs a step; mean over the second half of the run ± standard "
    "error from five blocks. A run in which one phase is gone is no melting temperature, and the "
    "next one starts from what it says.",
)
_READING = (
    "## What this shows, and what not",
    "",
    "- The check holds: Ag_u3 gets its published lattice and elastic constants, vacancy and "
    "surfaces from the same script to a hundredth. So a deviation of a model is the model's.",
    "- PBE is not experiment: its crystal is larger and softer, and its surfaces cost too little "
    "(Patra et al., arXiv:1702.08515). Models of PBE are to be held against PBE. No PBE values of "
    "elastic constants, "
    "vacancy, surfaces, phonons and melting were at hand with a source, so there the rows show "
    "how far the readouts agree with each other, not which one is right.",
    "- The models extrapolate. The first-principles set has four frames of the fcc crystal, none "
    "of a vacancy in it, of its surfaces or of its melt; what it has are many other crystals, "
    "strained and disordered, with 5 to 13 neighbours. That lattice constants come out well does "
    "not make a surface energy right.",
    "- Test errors are those of frames like the training's, and do not say how a property far from "
    "them turns out: models of like errors differ here by more than their errors do.",
    "- Sums over neighbours are divided by their number, as mace-torch does it. Linear readouts "
    "and MLPs learn slowly then, see [search](search.md): what readouts differ by here is in part "
    "that.",
    "- A seed or two per readout and 60 epochs. ± is the scatter of training alone; what the data "
    "leave open is not in it. Of phonons the figure shows one seed.",
    "- Melting is of one box, one orientation, (100), and one run, started from a guess or from "
    "what a small box says. Its ± does not hold the finite size, and the crystal fraction drifts "
    "in runs as short as these: ten kelvin are not told apart. --along 400 makes it 10^5 atoms.",
)
