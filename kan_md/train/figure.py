"""The learning-curve figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from kan_md.figures import COLOURS, INK, log_axis, new_figure, plain_axes, save_figure
from kan_md.tasks.targets import Target
from kan_md.train.metrics import milli, shown_unit

_FEW = 30
"""Epochs below which every one has its point: a line through a few would hide that they are few."""


def plot_learning_curves(
    rows: Sequence[Mapping[str, float]],
    targets: Sequence[Target],
    path: Path,
    *,
    steps_per_epoch: int,
    best_epoch: int,
    averaged: bool,
) -> None:
    """Draw the loss and the MAE of each target over the epochs, training and validation.

    Args:
        rows: of ``log.csv``.
        targets: everything that was learned.
        path: of the figure; its ending says in which format.
        steps_per_epoch: batches of a whole epoch. One that was cut short, by the time limit, is
            shown where it ended, with open markers.
        best_epoch: epoch, from 1, whose weights were kept.
        averaged: whether validation is of the running average of the weights.
    """
    shown = [target for target in targets if f"val_{target.name}_mae" in rows[0]]
    figure = new_figure(0.6 + 2.9 * (1 + len(shown)), 3.4)
    figure.get_layout_engine().set(wspace=0.06)
    axes = figure.subplots(1, 1 + len(shown), squeeze=False)[0]
    epochs = epochs_done(rows, steps_per_epoch)
    for axis, name, label in (
        (axes[0], "loss", "loss"),
        *(
            (axis, f"{target.name}_mae", f"{target.name} MAE")
            for axis, target in zip(axes[1:], shown, strict=True)
        ),
    ):
        unit, factor = ("", 1.0) if name == "loss" else milli(shown_unit(name, targets))
        _curves(axis, epochs, rows, name, factor)
        _mark_best(axis, epochs, rows, name, factor, best_epoch)
        axis.set_ylabel(f"{label} ({unit})" if unit else label)
    handles, labels = axes[0].get_legend_handles_labels()
    weights = "running average of the weights, EMA" if averaged else "weights after the epoch"
    names = {
        "train": "training (while the weights change)",
        "val": f"validation ({weights})",
        "best": f"epoch {best_epoch}, the best: kept in model.pth",
        "part": "part of an epoch",
    }
    figure.legend(
        handles,
        [names[label] for label in labels],
        loc="outside upper center",
        ncols=len(handles),
        frameon=False,
        fontsize=9,
    )
    save_figure(figure, path)


def epochs_done(rows: Sequence[Mapping[str, float]], steps_per_epoch: int) -> list[float]:
    """Epochs at the end of each row: whole numbers, but for a last one that was cut short."""
    done = [row["epoch"] + 1.0 for row in rows]
    steps = rows[-1]["step"] - (rows[-2]["step"] if len(rows) > 1 else 0)
    if len(rows) == 1 or rows[-1]["epoch"] == rows[-2]["epoch"] + 1:
        done[-1] += min(0.0, steps / steps_per_epoch - 1.0)
    return done


def _curves(
    axis: Axes,
    epochs: Sequence[float],
    rows: Sequence[Mapping[str, float]],
    name: str,
    factor: float,
) -> None:
    part = epochs[-1] != int(epochs[-1])
    for kind, colour in (("train", COLOURS[0]), ("val", COLOURS[1])):
        values = [factor * row[f"{kind}_{name}"] for row in rows]
        whole = len(epochs) - part
        style = {"color": colour, "linewidth": 1.4, "markersize": 3.5}
        marker = "o" if len(rows) < _FEW else None
        axis.plot(epochs[:whole], values[:whole], marker=marker, label=kind, **style)
        if part:
            axis.plot(epochs[whole - 1 :], values[whole - 1 :], ":", **style)
            label = "part" if kind == "val" else None
            open_marker = {"marker": "o", "markerfacecolor": "white", "linestyle": "none"}
            axis.plot(epochs[-1:], values[-1:], label=label, **style, **open_marker)
    log_axis(axis.yaxis)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axis.set_xlim(0, max(1.0, epochs[-1]) * 1.03)
    axis.set_xlabel("epoch")
    plain_axes(axis)


def _mark_best(
    axis: Axes,
    epochs: Sequence[float],
    rows: Sequence[Mapping[str, float]],
    name: str,
    factor: float,
    best_epoch: int,
) -> None:
    found = [index for index, row in enumerate(rows) if row["epoch"] + 1 == best_epoch]
    for index in found:
        value = factor * rows[index][f"val_{name}"]
        if math.isfinite(value):
            axis.axvline(epochs[index], color=INK, linewidth=0.8, linestyle="--", zorder=1)
            style = {"color": INK, "markersize": 8, "linestyle": "none", "zorder": 5}
            axis.plot([epochs[index]], [value], marker="*", label="best", **style)
