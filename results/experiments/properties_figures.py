"""Figures of the page on silver: compression, phonons, melting."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase.eos import birchmurnaghan
from ase.units import GPa
from scipy.interpolate import CubicSpline

from kan_md.figures import COLOURS, GREY, INK, new_figure, plain_axes
from kan_md.figures import save_figure as save
from results.experiments.mechanics.references import PBE_COMPRESSION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = {"KAN": (COLOURS[0], "-"), "linear": (COLOURS[1], "--"), "MLP 16": (COLOURS[2], ":")}
TITLES = {"Ag": "labels of PBE", "Ag_u3": "labels of Ag_u3"}


def of(stored: dict, labels: str, readout: str) -> list[dict]:
    """The calculated potentials of a training set and a readout, by seed."""
    found = [
        entry
        for entry in stored["potentials"].values()
        if (entry["labels"], entry["readout"]) == (labels, readout)
    ]
    return sorted(found, key=lambda entry: entry["seed"])


def save_compression(stored: dict, path: Path) -> bool:
    """Energy against volume of every seed, above its own minimum; False where there is none."""
    sets = [labels for labels in TITLES if any(of(stored, labels, r) for r in STYLES)]
    if not sets:
        return False
    figure = new_figure(4.6 * len(sets), 3.6)
    for number, labels in enumerate(sets):
        axes = figure.add_subplot(1, len(sets), number + 1)
        plain_axes(axes)
        axes.set_title(TITLES[labels], fontsize=10, color=INK)
        _truth(axes, stored, labels)
        for readout, (colour, line) in STYLES.items():
            for index, entry in enumerate(of(stored, labels, readout)):
                found = entry["properties"]["compression"]
                energies = 1e3 * (np.array(found["energies"]) - min(found["energies"]))
                volumes = np.linspace(min(found["volumes"]), max(found["volumes"]), 100)
                smooth = CubicSpline(found["volumes"], energies)(volumes)
                name = readout if index == 0 else None
                axes.plot(volumes, smooth, line, color=colour, label=name, lw=1.3)
        axes.set_xlabel("volume (Å³/atom)", fontsize=9)
        axes.set_ylabel("energy above the lowest (meV/atom)", fontsize=9)
        axes.set_ylim(0, 60)
        axes.legend(frameon=False, fontsize=8)
    save(figure, path)
    return True


def _truth(axes: Axes, stored: dict, labels: str) -> None:
    """The curve of the method that made the labels."""
    if labels == "Ag_u3":
        for entry in of(stored, labels, ""):
            found = entry["properties"]["compression"]
            energies = 1e3 * (np.array(found["energies"]) - min(found["energies"]))
            axes.plot(found["volumes"], energies, color=GREY, lw=4, alpha=0.6, label="Ag_u3")
        return
    volume, modulus, slope = PBE_COMPRESSION
    volumes = volume * np.linspace(0.91, 1.1, 100)
    energies = birchmurnaghan(volumes, 0.0, modulus * GPa, slope, volume)
    axes.plot(volumes, 1e3 * energies, color=GREY, lw=4, alpha=0.6, label="PBE, all electrons")


def save_phonons(stored: dict, path: Path) -> bool:
    """Bands of the first seed of each readout; False where there are none."""
    sets = [labels for labels in TITLES if any(of(stored, labels, r) for r in STYLES)]
    if not sets:
        return False
    figure = new_figure(5.4 * len(sets), 3.8)
    for number, labels in enumerate(sets):
        axes = figure.add_subplot(1, len(sets), number + 1)
        plain_axes(axes, grid="y")
        shown = {"": (GREY, "-")} if labels == "Ag_u3" else {}
        for readout, (colour, line) in {**shown, **STYLES}.items():
            for entry in of(stored, labels, readout)[:1]:
                found = entry["properties"]["phonons"]
                wide = {"lw": 1.3} if readout else {"lw": 4, "alpha": 0.6}
                _bands(axes, found, colour, line, readout or "Ag_u3", **wide)
                seed = f", seed {entry['seed']}" if readout else ""
        axes.set_title(f"{TITLES[labels]}{seed}", fontsize=10, color=INK)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("frequency (THz)", fontsize=9)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    save(figure, path)
    return True


def _bands(axes: Axes, found: dict, colour: str, line: str, name: str, **style: float) -> None:
    frequencies = np.array(found["frequencies"])
    for band in range(3):
        label = name if band == 0 else None
        axes.plot(found["distance"], frequencies[:, band], line, color=colour, label=label, **style)
    names = [label.replace("G", "Γ") for label, _ in found["ticks"]]
    places = [place for _, place in found["ticks"]]
    axes.set_xticks(places, names)
    axes.set_xlim(places[0], places[-1])
    for place in places:
        axes.axvline(place, color="#d9dce1", linewidth=0.6, zorder=0)


def save_melting(stored: dict, path: Path) -> bool:
    """Temperature against time of every run that kept both phases; False where there is none."""
    runs = [
        (entry, entry["melting"][-1])
        for entry in stored["potentials"].values()
        if entry.get("melting") and entry["melting"][-1]["has_both"]
    ]
    if not runs:
        return False
    figure = new_figure(6.4, 3.6)
    axes = figure.add_subplot()
    plain_axes(axes)
    for entry, run in runs:
        colour, line = STYLES.get(entry["readout"], (GREY, "-"))
        time, temperature = np.array(run["trace"]).T
        whose = f"{entry['readout']} ({TITLES[entry['labels']]})" if entry["readout"] else "Ag_u3"
        axes.plot(time, temperature, line, color=colour, lw=1.2, label=whose)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.1 * max(t for _, run in runs for _, t in run["trace"]))
    axes.set_xlabel("time (ps)", fontsize=9)
    axes.set_ylabel("temperature, crystal beside melt (K)", fontsize=9)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    save(figure, path)
    return True
