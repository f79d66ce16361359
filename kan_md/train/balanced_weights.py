"""Weights of energy, forces and stress that follow from how far their labels vary.

A term of the loss is the mean of ρ(Δ) over its labels, with Δ in eV/atom, eV/Å and eV/Å³. Equal
numbers in front of them mean nothing: stresses are a hundred times smaller than forces, so that
their squares vanish beside them. With the spread σ of the labels, w = a/ρ(σ) makes every term a
number without a unit that does not depend on the size of the structures: 1 for a model that knows
the mean alone. The shares a were chosen by trying, see results/loss.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

from kan_md.config.schema import LossConfig, TrainConfig
from kan_md.data.dataset import FramesDataset
from kan_md.data.outliers import force_outliers
from kan_md.data.statistics import reference_energies
from kan_md.tasks.targets import ENERGY, FORCES, STRESS, Target
from kan_md.train.losses import rho
from kan_md.train.structures import Note

SHARES = {"energy": 0.3, "forces": 1.0, "stress": 0.1}
"""a, which forces lead: they are many, and a model learns most from them."""

SMALLEST = {"energy": 0.1, "stress": 0.01}
"""Spreads per spread of the forces, Å and 1/Å², below which labels vary too little to decide: the
energies of one temperature, the stresses of one volume."""


def balanced(
    config: TrainConfig, frames: Sequence[Atoms], dataset: FramesDataset
) -> tuple[TrainConfig, list[Note]]:
    """Put numbers in the place of balanced weights, and say which.

    Args:
        config: weights of labels that the data do not have are 0.
        frames: training set.
        dataset: of the same.
    """
    training = config.training
    losses = [training.loss, *(stage.loss for stage in training.stages)]
    if not any(loss.is_balanced for loss in losses):
        return config, _labels_without_weight(losses, frames, dataset)
    found = [
        balanced_weights(loss, frames, dataset) if loss.is_balanced else loss for loss in losses
    ]
    first, *others = found
    stages = [
        stage.model_copy(update={"loss": loss})
        for stage, loss in zip(training.stages, others, strict=True)
    ]
    notes = [
        ("loss", f"{where}{loss_in_words(loss)} (balanced)")
        for where, before, loss in zip(_places(config), losses, found, strict=True)
        if before.is_balanced
    ]
    training = training.model_copy(update={"loss": first, "stages": stages})
    return config.model_copy(update={"training": training}), notes


def balanced_weights(
    loss: LossConfig, frames: Sequence[Atoms], dataset: FramesDataset
) -> LossConfig:
    """The same loss with its weights in numbers, that of the forces 1.

    Args:
        loss: with weights of 0 for labels that are to be left out.
        frames: training set.
        dataset: of the same.
    """
    spreads = label_spreads(frames, dataset, energy_per=loss.energy_per)
    wanted = [name for name in spreads if getattr(loss, name) != 0.0]
    costs = {
        name: float(rho(torch.tensor(spreads[name]).double(), loss.function, delta=loss.delta))
        for name in wanted
    }
    weights = {name: SHARES[name] / cost for name, cost in costs.items()}
    unit = weights.get("forces", max(weights.values()))
    numbers = {name: float(f"{weight / unit:.3g}") for name, weight in weights.items()}
    return loss.model_copy(update={**dict.fromkeys(SHARES, 0.0), **numbers})


def label_spreads(
    frames: Sequence[Atoms], dataset: FramesDataset, *, energy_per: str = "atom"
) -> dict[str, float]:
    """How far the labels vary: energy (eV/atom or eV), forces (eV/Å), stress (eV/Å³).

    Root mean squares of energies around what the composition explains, of force components, and of
    stress components around the mean pressure, without outliers. Labels that no structure has are
    absent.
    """
    references = reference_energies(dataset)
    outliers = {*references.outliers, *force_outliers(frames).tolist()}
    kept = [index for index in range(len(frames)) if index not in outliers]
    chosen = [frames[index] for index in kept]
    sizes = np.array([1 if energy_per == "atom" else len(atoms) for atoms in chosen])
    values = {
        ENERGY.name: references.residuals[kept] * sizes,
        FORCES.name: _labels(chosen, FORCES).ravel(),
        STRESS.name: _around_mean_pressure(_labels(chosen, STRESS)),
    }
    values = {name: found[np.isfinite(found)] for name, found in values.items()}
    spreads = {name: _rms(known) for name, known in values.items() if known.size}
    forces = spreads.get(FORCES.name, 0.0)
    for name, share in SMALLEST.items():
        if name in spreads:
            spreads[name] = max(spreads[name], share * forces)
    # All labels alike, as in a set of one structure: nothing to normalise by.
    return {name: spread if spread > 0.0 else 1.0 for name, spread in spreads.items()}


def loss_in_words(loss: LossConfig) -> str:
    """The weights, e.g. ``energy 7.8, forces 1, stress 190``."""
    return ", ".join(f"{name} {getattr(loss, name):g}" for name in SHARES)


def _labels_without_weight(
    losses: Sequence[LossConfig], frames: Sequence[Atoms], dataset: FramesDataset
) -> list[Note]:
    """Labels that every structure has and no loss asks for."""
    idle = [
        target.name
        for target in (ENERGY, FORCES, STRESS)
        if all(target.label(atoms) is not None for atoms in frames)
        and not any(getattr(loss, target.name) for loss in losses)
    ]
    if not idle:
        return []
    weights = balanced_weights(LossConfig(function=losses[-1].function), frames, dataset)
    text = f"labels of {' and '.join(idle)} without a weight are not learned; "
    return [("loss", f"{text}training.loss: balanced would be {loss_in_words(weights)}")]


def _places(config: TrainConfig) -> list[str]:
    stages = config.training.stages
    return ["", *(f"from {100 * stage.start:g} % on: " for stage in stages)]


def _labels(frames: Sequence[Atoms], target: Target) -> np.ndarray:
    """[rows, components] of all structures that have the label."""
    found = [
        label.reshape(len(label), -1)
        for atoms in frames
        if (label := target.label(atoms)) is not None
    ]
    return np.concatenate(found) if found else np.empty((0, 0))


def _around_mean_pressure(stress: np.ndarray) -> np.ndarray:
    """Components of [num_structures, 9] less the mean of the diagonals."""
    if not stress.size:
        return stress
    diagonal = stress[:, ::4]
    return (stress - np.nanmean(diagonal) * np.eye(3).ravel()).ravel()


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
