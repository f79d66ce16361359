"""Structures with predictions, errors, and the parity figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kan_md.data.write import write_frames
from kan_md.errors import user_error
from kan_md.evaluate.evaluation import Evaluation
from kan_md.evaluate.parity import plot_parity
from kan_md.figures import check_figure_name
from kan_md.files import cannot_write, check_writable, write_text

PREFIX = "kan_"
"""What names of predictions begin with in the extended XYZ file."""

FILES = ("predictions.xyz", "parity.png", "errors.json")


def check_output(
    folder: str | Path | None, *, figure: str | Path | None = None, overwrite: bool
) -> None:
    """Refuse an output folder and a figure before anything is computed.

    Args:
        folder: where files go; none are written where ``None``.
        figure: the parity figure, if not parity.png in the folder.
        overwrite: replace files that are there.

    Raises:
        KanMdError: a file is there already, its folder cannot be written, or the figure's ending is
            no format.
    """
    if figure is not None:
        check_figure_name(figure, option="--figure")
        if folder is None or Path(figure).absolute().parent != Path(folder).absolute():
            check_writable(figure, overwrite=overwrite)
    if folder is None:
        return
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
    evaluation: Evaluation,
    folder: str | Path,
    *,
    figure: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write predictions.xyz, errors.json and the parity figure.

    Args:
        evaluation: what to write.
        folder: where to; made if missing.
        figure: the parity figure, if not parity.png in the folder.
        overwrite: replace files that are there.

    Returns:
        The folder.

    Raises:
        KanMdError: a file is there already, or the folder cannot be written.
    """
    check_output(folder, figure=figure, overwrite=overwrite)
    folder = Path(folder)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    _write_predictions(evaluation, folder / FILES[0], overwrite)
    plot_parity(evaluation, folder / FILES[1] if figure is None else Path(figure))
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
