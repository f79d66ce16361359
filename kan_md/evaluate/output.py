"""Parity plots, and structures with predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kan_md.data.targets import Target
from kan_md.data.write import write_frames
from kan_md.errors import user_error
from kan_md.evaluate.evaluation import Evaluation
from kan_md.files import cannot_write, check_writable, write_text, written_whole

PREFIX = "kan_"
"""What names of predictions begin with in the extended XYZ file."""

FILES = ("predictions.xyz", "parity.png", "errors.json")


def check_output(folder: str | Path, *, overwrite: bool) -> None:
    """Refuse an output folder before anything is computed.

    Raises:
        KanMdError: a file is there already, or the folder cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise user_error(
            "output folder", found=f"the file {folder}", allowed=None, remedy="change --output"
        )
    if folder.is_dir():
        for name in FILES:
            check_writable(folder / name, overwrite=overwrite)
    else:
        check_writable(folder, overwrite=False)


def write_evaluation(
    evaluation: Evaluation, folder: str | Path, *, overwrite: bool = False
) -> Path:
    """Write predictions.xyz, parity.png and errors.json.

    Args:
        evaluation: what to write.
        folder: where to; made if missing.
        overwrite: replace files that are there.

    Returns:
        The folder.

    Raises:
        KanMdError: a file is there already, or the folder cannot be written.
    """
    check_output(folder, overwrite=overwrite)
    folder = Path(folder)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    _write_predictions(evaluation, folder / FILES[0], overwrite)
    plot_parity(evaluation, folder / FILES[1])
    content = errors_as_plain(evaluation)
    extra = {name: value for name, value in content.items() if name != "errors" and value}
    write_text(folder / FILES[2], json.dumps(content["errors"] | extra, indent=2) + "\n")
    return folder


def errors_as_plain(evaluation: Evaluation) -> dict[str, Any]:
    """The errors as JSON takes them: of all, by ``config_type``, and isolated atoms beside them."""
    return {
        "errors": evaluation.errors,
        "by_config_type": {
            name: {"structures": evaluation.counts[name], "errors": errors}
            for name, errors in evaluation.by_config_type.items()
        },
        "isolated_atoms": [
            {"element": symbol, "label": label, "prediction": prediction}
            for symbol, label, prediction in evaluation.isolated
        ],
    }


def _write_predictions(evaluation: Evaluation, path: Path, overwrite: bool) -> None:
    """Labels keep their names, predictions get a prefix."""
    frames = []
    for index, atoms in enumerate(evaluation.frames):
        copy = atoms.copy()
        copy.calc = atoms.calc
        for target in evaluation.predicted:
            value = evaluation.predictions[target.name][index]
            if target.per == "atom":
                columns = value.reshape(len(atoms), -1)
                copy.arrays[PREFIX + target.name] = columns if columns.shape[1] > 1 else value[:, 0]
            elif np.isfinite(value).all():
                flat = value.ravel()
                copy.info[PREFIX + target.name] = float(flat[0]) if flat.size == 1 else flat
        frames.append(copy)
    write_frames(frames, path, overwrite=overwrite)


def plot_parity(evaluation: Evaluation, path: Path) -> None:
    """Draw predicted against labelled values of every target.

    Args:
        evaluation: what to draw.
        path: of the PNG.
    """
    targets = evaluation.targets
    figure = Figure(figsize=(3.6 * len(targets), 3.6), layout="constrained")
    for axis, target in zip(
        figure.subplots(1, len(targets), squeeze=False)[0], targets, strict=True
    ):
        label, prediction = _points(evaluation, target)
        axis.plot(label, prediction, ".", markersize=3, alpha=0.4, rasterized=True)
        ends = [min(label.min(), prediction.min()), max(label.max(), prediction.max())]
        axis.plot(ends, ends, "k-", linewidth=0.8)
        unit = target.unit + "/atom" * target.extensive
        error = evaluation.errors[f"{target.name}_mae"]
        axis.set_title(f"{target.name}, MAE {error:.3g} {unit}", fontsize=10)
        axis.set_xlabel(f"label ({unit})")
        axis.set_ylabel(f"prediction ({unit})")
        axis.set_aspect("equal", adjustable="datalim")
        axis.locator_params(nbins=4)  # energies per atom have long tick labels
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _points(evaluation: Evaluation, target: Target) -> tuple[np.ndarray, np.ndarray]:
    labels, predictions = [], []
    for atoms, label, prediction in zip(
        evaluation.frames,
        evaluation.labels[target.name],
        evaluation.predictions[target.name],
        strict=True,
    ):
        if label is not None:
            scale = 1.0 / len(atoms) if target.extensive else 1.0
            labels.append(scale * label.ravel())
            predictions.append(scale * prediction.ravel())
    label, prediction = np.concatenate(labels), np.concatenate(predictions)
    known = ~np.isnan(label)  # single components may be without a label
    return label[known], prediction[known]
