"""The parity figure: predicted against labelled values, and what lies between them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from kan_md.data.label_report import config_type_of
from kan_md.evaluate.evaluation import Evaluation
from kan_md.figures import COLOURS, GREY, INK, new_figure, plain_axes, save_figure
from kan_md.tasks.targets import Target
from kan_md.train.metrics import milli, shown_unit

_MOST = len(COLOURS)
"""Groups with a colour of their own; the smaller ones share a grey."""
_REST = "others"
_FAR = 5.0
"""Mean of the labels in units of their range, from where on an axis shows the difference to it."""
_FEW = 0.01
"""Share of the residuals that does not stretch their axis."""


@dataclass(frozen=True)
class Points:
    """What is drawn of one target.

    Attributes:
        label: [n], in the target's unit (per atom where it is extensive).
        prediction: [n].
        group: [n], element or ``config_type``; empty names where there is nothing to tell apart.
    """

    label: np.ndarray
    prediction: np.ndarray
    group: np.ndarray

    @property
    def residual(self) -> np.ndarray:
        """[n], prediction minus label."""
        return self.prediction - self.label

    @property
    def middle(self) -> float:
        """What is taken off both on the axes, so that their ticks stay short; mostly nothing."""
        mean, span = float(self.label.mean()), float(np.ptp(self.label))
        return mean if abs(mean) > _FAR * span > 0.0 else 0.0


def plot_parity(evaluation: Evaluation, path: Path) -> None:
    """Draw predictions and residuals of every target against the labels, by element.

    Targets of structures are coloured by ``config_type``, those of atoms by element. What the
    errors leave out, isolated atoms, is not drawn either.

    Args:
        evaluation: what to draw.
        path: of the figure; its ending says in which format.
    """
    targets = evaluation.targets
    figure = new_figure(0.4 + 3.4 * len(targets), 5.2)
    figure.get_layout_engine().set(wspace=0.06)
    axes = figure.subplots(
        2, len(targets), squeeze=False, sharex="col", gridspec_kw={"height_ratios": [2.6, 1.0]}
    )
    for (upper, lower), target in zip(axes.T, targets, strict=True):
        points = points_of(evaluation, target)
        colours = group_colours(points.group)
        unit, factor = milli(shown_unit(f"{target.name}_mae", targets))
        mae, rmse = (factor * evaluation.errors[f"{target.name}_{k}"] for k in ("mae", "rmse"))
        upper.set_title(
            f"{target.name}: MAE {_short(mae)}, RMSE {_short(rmse)}" + f" {unit}" * bool(unit),
            fontsize=10,
        )
        _draw_parity(upper, points, colours, shown_unit(f"{target.name}_mae", targets))
        _draw_residuals(lower, points, colours, unit, factor)
        lower.set_xlabel(upper.get_xlabel())
        upper.set_xlabel("")
        if len(colours) > 1:
            handles = [
                upper.plot([], [], "o", markersize=5, color=colour, label=name or "without")[0]
                for name, colour in colours.items()
            ]
            upper.legend(handles=handles, fontsize=8, frameon=False, handletextpad=0.1)
    save_figure(figure, path)


def points_of(evaluation: Evaluation, target: Target) -> Points:
    """Labels and predictions of the components that have a label, and what they belong to."""
    labels, predictions, groups = [], [], []
    for index in evaluation.counted:
        atoms = evaluation.frames[index]
        label = evaluation.labels[target.name][index]
        if label is None:
            continue
        scale = 1.0 / len(atoms) if target.extensive else 1.0
        labels.append(scale * label.ravel())
        predictions.append(scale * evaluation.predictions[target.name][index].ravel())
        if target.per == "atom":
            groups.append(np.repeat(np.array(atoms.symbols, dtype=object), label[0].size))
        else:
            groups.append(np.full(label.size, config_type_of(atoms) or "", dtype=object))
    label, prediction = np.concatenate(labels), np.concatenate(predictions)
    known = ~np.isnan(label)  # single components may be without a label
    return Points(label[known], prediction[known], np.concatenate(groups)[known])


def group_colours(groups: np.ndarray) -> dict[str, str]:
    """A colour for each group, the most frequent first; all beyond the palette in one grey."""
    names = [name for name, _ in Counter(groups.tolist()).most_common()]
    if len(names) <= _MOST:
        return dict(zip(names, COLOURS, strict=False))
    return dict(zip(names[: _MOST - 1], COLOURS, strict=False)) | {_REST: GREY}


def _short(value: float) -> str:
    """Three digits, without exponents where people do not write them."""
    return f"{value:.0f}" if 100 <= value < 1e6 else f"{value:.3g}"


def _draw_parity(axis: Axes, points: Points, colours: dict[str, str], unit: str) -> None:
    middle = points.middle
    _scatter(axis, points.label - middle, points.prediction - middle, points, colours)
    both = np.concatenate([points.label, points.prediction]) - middle
    low, high = float(both.min()), float(both.max())
    margin = 0.04 * (high - low) or 1.0
    axis.plot([low, high], [low, high], color=INK, linewidth=0.8, zorder=4)
    axis.set_xlim(low - margin, high + margin)
    axis.set_ylim(low - margin, high + margin)
    said = f" {'−' if middle > 0 else '+'} {abs(middle):.3f}" if middle else ""
    ending = f" ({unit})" if unit else ""
    axis.set_xlabel(f"label{said}{ending}")
    axis.set_ylabel(f"prediction{said}{ending}")
    for which in (axis.xaxis, axis.yaxis):
        which.set_major_locator(MaxNLocator(nbins=5))
    plain_axes(axis)


def _draw_residuals(
    axis: Axes, points: Points, colours: dict[str, str], unit: str, factor: float
) -> None:
    """Residuals; where a few lie far off they are drawn on the edge, and counted."""
    residual = factor * points.residual
    size = np.abs(residual)
    half = min(float(size.max()), 2.0 * float(np.quantile(size, 1.0 - _FEW))) or 1.0
    _scatter(axis, points.label - points.middle, np.clip(residual, -half, half), points, colours)
    axis.axhline(0.0, color=INK, linewidth=0.8, zorder=4)
    axis.set_ylim(-1.1 * half, 1.1 * half)
    axis.set_ylabel("prediction − label" + f"\n({unit})" * bool(unit))
    axis.yaxis.set_major_locator(MaxNLocator(nbins=5))
    plain_axes(axis)
    beyond = int((size > half).sum())
    if beyond:
        said = f"{beyond} of {len(residual)} farther off, up to {size.max():.3g}: on the edge"
        axis.set_title(said, fontsize=8, color=INK)


def _scatter(
    axis: Axes, x: np.ndarray, y: np.ndarray, points: Points, colours: dict[str, str]
) -> None:
    """Points in an order of chance, so that no group hides another."""
    order = np.random.default_rng(0).permutation(len(x))
    rest = colours.get(_REST, GREY)
    shades = np.array([colours.get(name, rest) for name in points.group[order].tolist()])
    size = 12.0 if len(x) < 300 else 6.0 if len(x) < 3000 else 3.0
    axis.scatter(
        x[order], y[order], s=size, c=shades, alpha=0.6, linewidths=0, rasterized=True, zorder=2
    )
