"""The learning-curve figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kan_md.data.targets import Target
from kan_md.files import written_whole
from kan_md.train.metrics import shown_unit

_FEW = 15


def plot_learning_curves(
    rows: Sequence[dict[str, float]], targets: Sequence[Target], path: Path
) -> None:
    """Draw the loss and the MAE of each target over the epochs, training and validation.

    Args:
        rows: of ``log.csv``.
        targets: everything that was learned.
        path: of the PNG.
    """
    shown = [target for target in targets if f"val_{target.name}_mae" in rows[0]]
    figure = Figure(figsize=(4.0 * (1 + len(shown)), 3.2), layout="constrained")
    axes = figure.subplots(1, 1 + len(shown), squeeze=False)[0]
    _curves(axes[0], rows, "loss")
    axes[0].set_ylabel("loss")
    axes[0].legend(frameon=False)
    for axis, target in zip(axes[1:], shown, strict=True):
        name = f"{target.name}_mae"
        _curves(axis, rows, name)
        axis.set_ylabel(f"{target.name} MAE ({shown_unit(name, targets)})")
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _curves(axis: Axes, rows: Sequence[dict[str, float]], name: str) -> None:
    epochs = [row["epoch"] + 1 for row in rows]
    for part, style in (("train", "-"), ("val", "--")):
        values = [row[f"{part}_{name}"] for row in rows]
        # A line through a few points would hide that they are few.
        marker = "." if len(rows) < _FEW else None
        axis.plot(epochs, values, style, marker=marker, label=part)
    # Errors fall by orders of magnitude; a linear axis would show the first epochs only.
    axis.set_yscale("log")
    axis.set_xlabel("epoch")
    axis.grid(alpha=0.3, which="both")
