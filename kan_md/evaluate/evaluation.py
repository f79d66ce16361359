"""Predictions for labelled structures, and their errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from kan_md.data.checks import check_elements, check_labels, check_structures
from kan_md.data.isolated import is_isolated_atom
from kan_md.data.label_report import config_type_of
from kan_md.errors import user_error
from kan_md.evaluate.models import load_model
from kan_md.tasks.targets import ENERGY, Target


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    Attributes:
        frames: the structures that were evaluated.
        targets: quantities that have labels.
        predicted: quantities that the model predicts.
        labels: by target name, one array per structure, None where a structure has no label.
        predictions: likewise, of everything that the model predicts.
        errors: by name, e.g. ``forces_mae``, ``forces_Ag_rmse``, ``energy_per_structure_mae``; of
            tensors also the MAE of each component, ``bec_xy_mae``, ``bec_O_xy_mae``.
        by_config_type: likewise, by the structures' ``config_type``; empty if all are of one.
        counted: indices of the structures behind ``errors``: all but isolated atoms.
        counts: number of structures behind ``errors`` and of each ``config_type``.
        isolated: isolated atoms, which do not count: element, labelled and predicted energy, eV
            (None where the model does not know the element).
    """

    frames: list[Atoms]
    targets: list[Target]
    predicted: list[Target]
    labels: dict[str, list[np.ndarray | None]]
    predictions: dict[str, list[np.ndarray]]
    errors: dict[str, float]
    by_config_type: dict[str, dict[str, float]]
    counted: list[int]
    counts: dict[str, int]
    isolated: list[tuple[str, float, float | None]]


def evaluate_file(
    path: str | Path,
    frames: Sequence[Atoms],
    *,
    device: str = "cpu",
    track: Callable[[Sequence[Atoms]], Iterable[Atoms]] = iter,
) -> Evaluation:
    """Compare a model with labelled structures.

    Args:
        path: model.pth or deployed file.
        frames: structures as :func:`kan_md.data.read_frames` gives them.
        device: ``cpu`` or ``cuda``.
        track: wraps the structures while they are evaluated, e.g. in a progress bar.

    Raises:
        KanMdError: the file or the structures cannot be used, or a prediction is not finite.
    """
    check_structures(frames, "evaluation set")
    model = load_model(path, device=device)
    targets = list(model.task.targets)
    with_energies = ENERGY in targets
    foreign = [
        atoms
        for atoms in frames
        if with_energies
        and is_isolated_atom(atoms, model.r_max)
        and not set(atoms.symbols) <= set(model.type_names)
    ]
    frames = [atoms for atoms in frames if not any(atoms is other for other in foreign)]
    check_structures(frames, "evaluation set without isolated atoms of other elements")
    check_elements(frames, model.type_names)
    labelled = [t for t in targets if any(t.label(atoms) is not None for atoms in frames)]
    if not labelled:
        names = ", ".join(target.name for target in targets)
        others = {name for atoms in frames for name in (*atoms.info, *atoms.arrays)}
        others = ", ".join(sorted(others - {"numbers", "positions", "source"})) or "no labels"
        raise user_error(
            f"data without {names}",
            found=f"{len(frames)} structures with {others}",
            allowed=None,
            remedy="label them, or name the labels with --key"
            if targets[0].named_by_key
            else "label them under these names",
        )
    check_labels(frames, labelled)
    found = [_rows(model.predict(atoms), targets, atoms) for atoms in track(frames)]
    for atoms, one in zip(frames, found, strict=True):
        _check_finite(atoms, one, labelled)
    predictions = {target.name: [one[target.name] for one in found] for target in targets}
    labels = {target.name: [target.label(atoms) for atoms in frames] for target in labelled}
    isolated = {
        index: (str(atoms.symbols), label.item(), found[index]["energy"].item())
        for index, atoms in enumerate(frames)
        if with_energies
        and is_isolated_atom(atoms, model.r_max)
        and (label := ENERGY.label(atoms)) is not None
    }
    counted = [index for index in range(len(frames)) if index not in isolated]
    if not counted:  # a file of nothing else
        counted, isolated = list(range(len(frames))), {}
    groups = _by_config_type(frames, counted)
    labelled = [t for t in labelled if any(labels[t.name][i] is not None for i in counted)]

    def errors(indices: Sequence[int]) -> dict[str, float]:
        chosen = [frames[index] for index in indices]
        return {
            name: error
            for target in labelled
            for name, error in _errors(
                target,
                chosen,
                [labels[target.name][index] for index in indices],
                [predictions[target.name][index] for index in indices],
            ).items()
        }

    return Evaluation(
        frames=list(frames),
        targets=labelled,
        predicted=targets,
        labels=labels,
        predictions=predictions,
        errors=errors(counted),
        by_config_type={name: errors(indices) for name, indices in groups.items()},
        counted=counted,
        counts={"all": len(counted), **{name: len(indices) for name, indices in groups.items()}},
        isolated=list(isolated.values())
        + [
            (str(atoms.symbols), label.item(), None)
            for atoms in foreign
            if (label := ENERGY.label(atoms)) is not None
        ],
    )


def _rows(
    predicted: dict[str, np.ndarray], targets: Sequence[Target], atoms: Atoms
) -> dict[str, np.ndarray]:
    """Predictions in the shape of labels."""
    return {
        target.name: predicted[target.name].reshape(
            len(atoms) if target.per == "atom" else 1, *target.shape
        )
        for target in targets
    }


def _by_config_type(frames: Sequence[Atoms], counted: Sequence[int]) -> dict[str, list[int]]:
    """Indices of each group, the largest first; nothing where all are of one."""
    groups: dict[str, list[int]] = {}
    for index in counted:
        groups.setdefault(config_type_of(frames[index]) or "none", []).append(index)
    if len(groups) < 2:
        return {}
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def _check_finite(
    atoms: Atoms, predicted: dict[str, np.ndarray], targets: Sequence[Target]
) -> None:
    for target in targets:
        wanted = target.label(atoms) is not None
        if wanted and not np.isfinite(predicted[target.name]).all():
            raise user_error(
                f"predicted {target.name} of {atoms.info.get('source', 'a structure')}",
                found="NaN or infinity",
                allowed=None,
                remedy="check the structure for atoms on top of each other; else train the model "
                "again",
            )


def _errors(
    target: Target,
    frames: Sequence[Atoms],
    labels: Sequence[np.ndarray | None],
    predictions: Sequence[np.ndarray],
) -> dict[str, float]:
    """MAE and RMSE over components; per atom, per structure and per species where it applies."""
    kept = [
        (atoms, prediction - label)
        for atoms, label, prediction in zip(frames, labels, predictions, strict=True)
        if label is not None
    ]
    if not kept:
        return {}
    if target.extensive:
        return {
            **_mae_rmse(target.name, [error / len(atoms) for atoms, error in kept]),
            **_mae_rmse(f"{target.name}_per_structure", [error for _, error in kept]),
        }
    groups = {target.name: [error for _, error in kept]}
    species = sorted({symbol for atoms, _ in kept for symbol in set(atoms.symbols)})
    if target.per == "atom" and len(species) > 1:
        for symbol in species:
            rows = [error[atoms.symbols == symbol] for atoms, error in kept]
            groups[f"{target.name}_{symbol}"] = rows
    errors: dict[str, float] = {}
    for name, rows in groups.items():
        errors |= _mae_rmse(name, rows)
    if target.components:
        for name, rows in groups.items():
            errors |= _component_maes(name, rows, target.components)
    return errors


def _component_maes(
    name: str, errors: Sequence[np.ndarray], components: Sequence[str]
) -> dict[str, float]:
    rows = np.concatenate([error.reshape(-1, len(components)) for error in errors])
    means = np.nanmean(np.abs(rows), axis=0)
    return {f"{name}_{axes}_mae": float(m) for axes, m in zip(components, means, strict=True)}


def _mae_rmse(name: str, errors: Sequence[np.ndarray]) -> dict[str, float]:
    flat = np.concatenate([error.ravel() for error in errors])
    flat = flat[~np.isnan(flat)]  # components without a label
    if not flat.size:
        return {}
    return {
        f"{name}_mae": float(np.abs(flat).mean()),
        f"{name}_rmse": float(np.sqrt(np.square(flat).mean())),
    }
