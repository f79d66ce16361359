"""The picture of a survey: energies, forces, distances, pressures, by ``config_type``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from kan_md.data.outliers import largest_force
from kan_md.data.survey import NO_TYPE, Survey
from kan_md.data.survey_table import force_lengths, pressure
from kan_md.figures import COLOURS, GREY, log_axis, new_figure, plain_axes, save_figure

_MOST = 7
"""Groups with a colour of their own; the smaller ones share the last."""

_BINS = 60


def plot_survey(survey: Survey, path: Path) -> None:
    """Draw a survey.

    Args:
        survey: what to draw.
        path: of the figure; its ending says in which format.
    """
    groups = _groups(survey)
    figure = new_figure(9.0, 6.6)
    axes = figure.subplots(2, 2)
    _energies(axes[0, 0], survey, groups)
    _forces(axes[0, 1], survey, groups)
    _distances(axes[1, 0], survey, groups)
    _pressures(axes[1, 1], survey, groups)
    if list(groups) != [NO_TYPE]:
        handles, labels = axes[1, 0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=4, frameon=False, title="config_type"
        )
    for axis in axes.flat:
        plain_axes(axis)
    save_figure(figure, path)


def _groups(survey: Survey) -> dict[str, np.ndarray]:
    """Indices of the structures of each group, the largest first."""
    types = np.array(survey.config_types, dtype=object)
    common = [name for name, _ in Counter(types).most_common()]
    named = common if len(common) <= _MOST + 1 else common[:_MOST]
    groups = {name: np.flatnonzero(types == name) for name in named}
    if len(named) < len(common):
        rest = np.flatnonzero(~np.isin(types, named))
        groups[f"{len(common) - len(named)} others"] = rest
    return groups


def _energies(axis: Axes, survey: Survey, groups: dict[str, np.ndarray]) -> None:
    residuals = survey.references.residuals
    _histogram(axis, [residuals[indices] for indices in groups.values()], log=False)
    axis.set_xlabel("energy above the reference energies (eV/atom)")
    axis.set_ylabel("structures")
    axis.set_title("energies")


def _forces(axis: Axes, survey: Survey, groups: dict[str, np.ndarray]) -> None:
    """Forces, or where there are none the closest distances."""
    lengths = [force_lengths(atoms) for atoms in survey.frames]
    values = [np.concatenate([lengths[i] for i in indices]) for indices in groups.values()]
    values = [part[part > 1e-4] for part in values]
    if any(part.size for part in values):
        _histogram(axis, values, log=True)
        axis.set_xlabel("force on an atom (eV/Å)")
        axis.set_ylabel("atoms")
        axis.set_title("forces")
        return
    closest = np.array([one.closest for one in survey.distances])
    _histogram(axis, [closest[indices] for indices in groups.values()], log=False)
    axis.set_xlabel("closest two atoms of a structure (Å)")
    axis.set_ylabel("structures")
    axis.set_title("distances")


def _histogram(axis: Axes, parts: list[np.ndarray], *, log: bool) -> None:
    """Stacked histogram; the number of counts on a logarithmic axis, so that few are seen."""
    parts = [part[np.isfinite(part)] for part in parts]
    together = np.concatenate(parts)
    if not together.size:
        _nothing(axis)
        return
    low, high = float(together.min()), float(together.max())
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    edges = np.geomspace(low, high, _BINS + 1) if log else np.linspace(low, high, _BINS + 1)
    axis.hist(parts, bins=edges, stacked=True, color=_colours(len(parts)))
    axis.set_yscale("log")
    axis.set_ylim(bottom=0.7)
    log_axis(axis.yaxis, whole=True)
    if log:
        log_axis(axis.xaxis)


def _distances(axis: Axes, survey: Survey, groups: dict[str, np.ndarray]) -> None:
    """Largest force, or where there are none the energy, against the closest distance."""
    closest = np.array([one.closest for one in survey.distances])
    values = np.array([largest_force(atoms) for atoms in survey.frames])
    values[values == 0.0] = np.nan
    label, what = "largest force in it (eV/Å)", "forces"
    of_forces = bool(np.isfinite(values).any())
    if not of_forces:
        values, label, what = survey.references.residuals, "energy (eV/atom)", "energies"
    if not (np.isfinite(values) & np.isfinite(closest)).any():
        _nothing(axis)
    _points(axis, closest, values, groups)
    if of_forces:
        log_axis(axis.yaxis)
    axis.set_xlabel("closest two atoms of a structure (Å)")
    axis.set_ylabel(label)
    axis.set_title(f"distances and {what}")


def _pressures(axis: Axes, survey: Survey, groups: dict[str, np.ndarray]) -> None:
    """Pressure against volume, or where there is no stress the sizes of the structures."""
    pressures = np.array([pressure(atoms) for atoms in survey.frames])
    if np.isfinite(pressures).any():
        volumes = np.array([atoms.cell.volume / len(atoms) for atoms in survey.frames])
        _points(axis, volumes, pressures, groups)
        axis.set_xlabel("volume (Å³/atom)")
        axis.set_ylabel("pressure (GPa)")
        axis.set_title("stress")
        return
    sizes = np.array([float(len(atoms)) for atoms in survey.frames])
    _histogram(axis, [sizes[indices] for indices in groups.values()], log=False)
    axis.set_xlabel("atoms of a structure")
    axis.set_ylabel("structures")
    axis.set_title("sizes (no structure has a stress)")


def _points(axis: Axes, x: np.ndarray, y: np.ndarray, groups: dict[str, np.ndarray]) -> None:
    for (name, indices), colour in zip(groups.items(), _colours(len(groups)), strict=True):
        label = "without" if name == NO_TYPE else name
        axis.plot(x[indices], y[indices], ".", color=colour, markersize=4, label=label)


def _colours(number: int) -> list[str]:
    return [*COLOURS, GREY][:number]


def _nothing(axis: Axes) -> None:
    axis.text(0.5, 0.5, "no labels", ha="center", va="center", transform=axis.transAxes)
    axis.set_xticks([])
    axis.set_yticks([])
