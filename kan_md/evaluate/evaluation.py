"""Predictions for labelled structures, and their errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from kan_md.data.checks import check_elements, check_labels, check_structures
from kan_md.data.targets import POTENTIAL_TARGETS, Target
from kan_md.errors import user_error
from kan_md.evaluate.potentials import is_deployed, load_potential
from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.tensors import is_tensor_backbone, predict_tensors, tensors_of

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
        errors: by name, e.g. ``forces_mae``, ``forces_Ag_rmse``, ``energy_per_structure_mae``.
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
        KanMdError: the file or the structures cannot be used.
    """
    check_structures(frames, "evaluation")
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
    check_labels(frames, labelled, optional={"stress"})
    found = [predict(atoms) for atoms in track(frames)]
    predictions = {target.name: [one[target.name] for one in found] for target in targets}
    labels = {target.name: [target.label(atoms) for atoms in frames] for target in labelled}
    errors: dict[str, float] = {}
    for target in labelled:
        errors |= _errors(target, frames, labels[target.name], predictions[target.name])
    return Evaluation(list(frames), labelled, targets, labels, predictions, errors)


def _load(path: str | Path, device: str) -> tuple[list[Target], Sequence[str], Predict]:
    if Path(path).is_file() and is_deployed(path):
        return _potential(path, device)
    checkpoint = load_checkpoint(path)
    if not is_tensor_backbone(checkpoint.backbone):
        return _potential(path, device)
    specs = tensors_of(checkpoint)
    model = checkpoint.build().to(device)
    targets = [
        Target(name=s.name, field=s.field, per=s.per, shape=(3,) * s.rank or (1,), unit=s.unit)
        for s in specs
    ]

    def predict(atoms: Atoms) -> dict[str, np.ndarray]:
        arrays = predict_tensors(model, specs, atoms)
        return {
            target.name: arrays[target.name].reshape(
                len(atoms) if target.per == "atom" else 1, *target.shape
            )
            for target in targets
        }

    return targets, checkpoint.type_names, predict


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
    errors = _mae_rmse(target.name, [error for _, error in kept])
    species = sorted({symbol for atoms, _ in kept for symbol in set(atoms.symbols)})
    if target.per == "atom" and len(species) > 1:
        for symbol in species:
            rows = [error[atoms.symbols == symbol] for atoms, error in kept]
            errors |= _mae_rmse(f"{target.name}_{symbol}", rows)
    return errors


def _mae_rmse(name: str, errors: Sequence[np.ndarray]) -> dict[str, float]:
    flat = np.concatenate([error.ravel() for error in errors])
    return {
        f"{name}_mae": float(np.abs(flat).mean()),
        f"{name}_rmse": float(np.sqrt(np.square(flat).mean())),
    }
