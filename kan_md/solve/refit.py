"""Solve a trained potential's readouts exactly for labelled structures."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ase
import torch

from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.data.checks import check_elements, check_structures
from kan_md.data.dataset import WEIGHT_PREFIX, FramesDataset
from kan_md.errors import user_error
from kan_md.model.checkpoint import Checkpoint
from kan_md.model.reference import frame_atoms
from kan_md.ops import operators_in_layers
from kan_md.solve.memory import MEMORY_KEY, identity_of, remembered
from kan_md.solve.normal import (
    NAMES,
    Solution,
    SquareSum,
    Sums,
    best_solution,
    regularised,
    weighted,
)
from kan_md.solve.rows import RowMaker
from kan_md.solve.uncertainty import calibration
from kan_md.solve.unknowns import Unknowns
from kan_md.tasks.choose import task_of_checkpoint
from kan_md.tasks.targets import ENERGY, FORCES, STRESS
from kan_md.tasks.task import Task

SMALLEST_RIDGE = 1e-8
"""Of the matrix that uncertainties come from: what no data determine is uncertain, not infinite."""

_TARGETS = {"energy": ENERGY, "forces": FORCES, "stress": STRESS}


@dataclass(frozen=True)
class Refit:
    """What came of it.

    Attributes:
        checkpoint: with the new readouts, its reference frames evaluated again.
        solution: None where no penalty gave a smaller loss on the structures that judge.
        errors: root mean squares by part (``fit``, ``judge``), by ``before`` and ``after``, by
            label: eV/atom, eV/Å, eV/Å³; None without labels.
        counts: number of structures by part; ``prior``: those of before that count, too.
        size: number of unknowns.
    """

    checkpoint: Checkpoint
    solution: Solution | None
    errors: dict[str, dict[str, dict[str, float | None]]]
    counts: dict[str, int]
    size: int


def refit(
    checkpoint: Checkpoint,
    fit: Sequence[ase.Atoms],
    judge: Sequence[ase.Atoms],
    *,
    weights: Mapping[str, float] | None = None,
    prior: float = 1.0,
    track: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> Refit:
    """Minimise the mean squares of the training's loss over the readouts' last layers.

    A ridge around the trained values and the curvature of the functions are penalised with the
    weights that give the smallest loss on ``judge``. Squares are minimised whatever the loss of the
    training was.

    Args:
        checkpoint: of a potential; unchanged.
        fit: labelled structures to solve for.
        judge: others, which choose the penalties; nothing is fitted to them.
        weights: of mean squares of ``energy`` (eV/atom), ``forces`` and ``stress``; those of the
            training where ``None``.
        prior: factor of the structures of earlier solves, whose sums the checkpoint has.
        track: wraps the structures while their rows are made.

    Raises:
        KanMdError: no potential, elements that it does not know, no labels, or a readout whose last
            layer is not known.
    """
    task = task_of_checkpoint(checkpoint)
    _check(checkpoint, task, prior, fit, judge)
    weights = dict(weights or training_weights(checkpoint))
    with nequip_settings(), operators_in_layers():
        model = checkpoint.build("float64").requires_grad_(False)
        unknowns = Unknowns(model, checkpoint.backbone)
        start = unknowns.vector()
        maker = RowMaker(model, unknowns, checkpoint.backbone)
        sums = {"fit": _empty(unknowns.size), "judge": _empty(unknowns.size)}
        for number, atoms in enumerate(track([*fit, *judge])):
            part = "fit" if number < len(fit) else "judge"
            add_structure(sums[part], maker, atoms, checkpoint)
    _check_labels(
        sums["fit"], weights, len(fit), "fit", "label them, or name the labels with --key"
    )
    # What the penalties are judged by needs labels, too; without any the fit itself would judge.
    _check_labels(sums["judge"], weights, len(judge), "judge by", "give labelled ones with --val")
    identity = identity_of(checkpoint, unknowns)
    known = remembered(checkpoint, identity)
    total, before = sums["fit"], 0
    if known is not None and prior > 0.0:
        before = round(prior * known["structures"])
        total = {name: one.plus(known["sums"][name], prior) for name, one in total.items()}
    loss, roughness = weighted(total, weights), unknowns.roughness()
    solution = best_solution(loss, weighted(sums["judge"], weights), start, roughness)
    after = start if solution is None else solution.c
    precision = _precision(loss, roughness, solution)
    memory = {
        "identity": identity,
        "structures": len(fit) + before,
        "weights": weights,
        "sums": {name: vars(one) for name, one in total.items()},
        "precision": precision,
        "alpha2": calibration(precision, sums["judge"], after),
    }
    counts = {"fit": len(fit), "judge": len(judge), "prior": before}
    changed = _with_readouts(checkpoint, after, memory, counts, solution, task)
    return Refit(changed, solution, _errors(sums, start, after), counts, unknowns.size)


def _check(
    checkpoint: Checkpoint,
    task: Task,
    prior: float,
    fit: Sequence[ase.Atoms],
    judge: Sequence[ase.Atoms],
) -> None:
    """Refuse what cannot be solved, before anything is evaluated."""
    if ENERGY not in task.targets:
        raise user_error(
            "model to solve readouts of",
            found=f"{checkpoint.backbone}, which predicts tensors",
            allowed="a potential",
            remedy="give a potential's model.pth",
        )
    if not 0.0 <= prior < math.inf:
        raise user_error("prior", found=prior, allowed=">= 0", remedy="set --prior")
    for frames, name in ((fit, "set to fit"), (judge, "set to judge by")):
        check_structures(frames, name)
        check_elements(frames, checkpoint.type_names)


def _check_labels(
    sums: Sums, weights: Mapping[str, float], number: int, what: str, remedy: str
) -> None:
    """Refuse structures without a label that counts."""
    if not any(one.count and weights.get(name, 0.0) for name, one in sums.items()):
        raise user_error(
            f"structures to {what} have no labels that are learned",
            found=f"{number} structures",
            allowed=", ".join(name for name, weight in weights.items() if weight > 0),
            remedy=remedy,
        )


def _precision(loss: SquareSum, roughness: torch.Tensor, solution: Solution | None) -> torch.Tensor:
    """The matrix that uncertainties come from, with the penalties of the solution."""
    if solution is None:
        return regularised(loss, roughness, ridge=SMALLEST_RIDGE, smoothness=0.0)
    ridge = max(solution.ridge, SMALLEST_RIDGE)
    return regularised(loss, roughness, ridge=ridge, smoothness=solution.smoothness)


def _errors(
    sums: Mapping[str, Sums], start: torch.Tensor, after: torch.Tensor
) -> dict[str, dict[str, dict[str, float | None]]]:
    return {
        part: {
            when: {name: one.rms(c) for name, one in own.items()}
            for when, c in (("before", start), ("after", after))
        }
        for part, own in sums.items()
    }


def training_weights(checkpoint: Checkpoint) -> dict[str, float]:
    """Weights of mean squares that the model was trained with; a later stage's where there are.

    Numbers only: 1, 1 and 0 for energy, forces and stress where the file does not say.
    """
    training = checkpoint.config.get("training", {})
    stages = training.get("stages") or []
    loss = stages[-1]["loss"] if stages else training.get("loss", {})
    found = {name: loss.get(name) for name in NAMES}
    if not all(isinstance(value, (int, float)) for value in found.values()):
        return {"energy": 1.0, "forces": 1.0, "stress": 0.0}
    return {name: float(value) for name, value in found.items()}


def add_structure(sums: Sums, maker: RowMaker, atoms: ase.Atoms, checkpoint: Checkpoint) -> None:
    """Add one structure's labels to the sums; energies count per atom, and frames by weight."""
    dataset = FramesDataset(
        [atoms],
        float(checkpoint.r_max),
        type_names=checkpoint.type_names,
        targets=list(_TARGETS.values()),
    )
    data = dataset.collate([dataset[0]])
    labels, factors = {}, {}
    for name, target in _TARGETS.items():
        labels[name] = data.pop(target.field).double().reshape(-1)
        factors[name] = float(data.pop(WEIGHT_PREFIX + target.field))
    rows = maker(data)
    per_atom = {"energy": 1.0 / len(atoms)}
    for name, label in labels.items():
        own = getattr(rows, name)
        if own is not None:
            scale = per_atom.get(name, 1.0)
            sums[name].add(scale * own, scale * label, factors[name])


def _empty(size: int) -> Sums:
    return {name: SquareSum.empty(size) for name in NAMES}


def _with_readouts(
    checkpoint: Checkpoint,
    c: torch.Tensor,
    memory: dict[str, Any],
    counts: Mapping[str, int],
    solution: Solution | None,
    task: Task,
) -> Checkpoint:
    model = checkpoint.build()
    Unknowns(model, checkpoint.backbone).put(c)
    frames = [frame_atoms(f, checkpoint.type_names) for f in checkpoint.reference_frames]
    summary = copy.deepcopy(checkpoint.training_summary)
    entry = {"structures": dict(counts), "ridge": None, "smoothness": None}
    if solution is not None:
        entry |= {"ridge": solution.ridge, "smoothness": solution.smoothness}
    summary["refits"] = [*summary.get("refits", []), entry]
    return replace(
        checkpoint,
        state_dict=model.state_dict(),
        statistics={**checkpoint.statistics, MEMORY_KEY: memory},
        reference_frames=task.reference_frames(model, frames),
        training_summary=summary,
    )
