"""Predictions for labelled structures, and their errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from ase import Atoms

from kan_md.data.checks import check_elements, check_labels, check_structures
from kan_md.data.targets import POTENTIAL_TARGETS, Target
from kan_md.errors import user_error
from kan_md.evaluate.potentials import load_potential
from kan_md.evaluate.tensors import holds_tensors, load_tensors

Predict = Callable[[Atoms], dict[str, np.ndarray]]


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
    """

    frames: list[Atoms]
    targets: list[Target]
    predicted: list[Target]
    labels: dict[str, list[np.ndarray | None]]
    predictions: dict[str, list[np.ndarray]]
    errors: dict[str, float]


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
    targets, type_names, predict = _load(path, device)
    check_elements(frames, type_names)
    labelled = [t for t in targets if any(t.label(atoms) is not None for atoms in frames)]
    if not labelled:
        names = ", ".join(target.name for target in targets)
        raise user_error(
            f"data without {names}",
            found=f"{len(frames)} structures without labels",
            allowed=None,
            remedy="label them, or name the labels with --key",
        )
    check_labels(frames, labelled)
    found = [predict(atoms) for atoms in track(frames)]
    for atoms, one in zip(frames, found, strict=True):
        _check_finite(atoms, one, labelled)
    predictions = {target.name: [one[target.name] for one in found] for target in targets}
    labels = {target.name: [target.label(atoms) for atoms in frames] for target in labelled}
    errors: dict[str, float] = {}
    for target in labelled:
        errors |= _errors(target, frames, labels[target.name], predictions[target.name])
    return Evaluation(list(frames), labelled, targets, labels, predictions, errors)


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


def _load(path: str | Path, device: str) -> tuple[list[Target], Sequence[str], Predict]:
    return (_tensors if holds_tensors(path) else _potential)(path, device)


def _tensors(path: str | Path, device: str) -> tuple[list[Target], Sequence[str], Predict]:
    model = load_tensors(path, device=device)
    targets = [
        Target(
            name=spec.name,
            field=spec.field,
            per=spec.per,
            shape=(3,) * spec.rank or (1,),
            unit=spec.label_unit,
        )
        for spec in model.specs
    ]

    def predict(atoms: Atoms) -> dict[str, np.ndarray]:
        arrays = model.predict(atoms)
        return {
            target.name: arrays[target.name].reshape(
                len(atoms) if target.per == "atom" else 1, *target.shape
            )
            for target in targets
        }

    return targets, model.type_names, predict


def _potential(path: str | Path, device: str) -> tuple[list[Target], Sequence[str], Predict]:
    potential = load_potential(path, device=device)

    def predict(atoms: Atoms) -> dict[str, np.ndarray]:
        found = potential.compute(atoms)
        volume = atoms.get_volume() if atoms.cell.rank == 3 else np.nan
        return {
            "energy": np.array([[found.energy]]),
            "forces": found.forces,
            "stress": -(found.virial + found.virial.T)[None] / 2 / volume,
        }

    return list(POTENTIAL_TARGETS), potential.type_names, predict


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
    if not target.of_potential:
        for name, rows in groups.items():
            errors |= _component_maes(name, rows, target)
    return errors


def components_of(target: Target) -> list[str]:
    """``["xx", "xy", …]``, the last index fastest; none for a scalar."""
    if target.shape == (1,):
        return []
    return ["".join(axes) for axes in product("xyz", repeat=len(target.shape))]


def _component_maes(name: str, errors: Sequence[np.ndarray], target: Target) -> dict[str, float]:
    components = components_of(target)
    if not components:
        return {}
    rows = np.concatenate([error.reshape(-1, len(components)) for error in errors])
    means = np.abs(rows).mean(0)
    return {f"{name}_{axes}_mae": float(m) for axes, m in zip(components, means, strict=True)}


def _mae_rmse(name: str, errors: Sequence[np.ndarray]) -> dict[str, float]:
    flat = np.concatenate([error.ravel() for error in errors])
    return {
        f"{name}_mae": float(np.abs(flat).mean()),
        f"{name}_rmse": float(np.sqrt(np.square(flat).mean())),
    }
