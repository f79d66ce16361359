"""Filling in the manifest of a deployed file from the checkpoint and the rebuilt model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from nequip.nn import GraphModel
from nequip.nn.embedding import EdgeLengthNormalizer

from kan_md.backbones.build import num_layers_of
from kan_md.tasks.task import Task

if TYPE_CHECKING:
    from kan_md.model.checkpoint import Checkpoint


def describe_model(checkpoint: Checkpoint, model: GraphModel, task: Task) -> dict[str, Any]:
    """Everything in the manifest that does not depend on how the model is compiled.

    Args:
        checkpoint: where the model comes from.
        model: float64 model rebuilt from it.
        task: of the model.

    Returns:
        Keyword arguments of :class:`kan_md.contract.Manifest`.
    """
    names = tuple(checkpoint.type_names)
    own = task.describe(model)
    elements = checkpoint.elements
    statistics = checkpoint.statistics or {}
    pairs = len(names) ** 2
    return own | {
        "backbone": checkpoint.backbone,
        "r_max": float(checkpoint.r_max),
        "num_layers": num_layers_of(model, backbone=checkpoint.backbone),
        "type_names": names,
        "atomic_numbers": elements.atomic_numbers,
        "masses": elements.masses,
        "cutoffs": pair_cutoffs(model, num_types=len(names), r_max=float(checkpoint.r_max)),
        "min_distances": _flat(statistics.get("min_distances"), pairs),
        "readout": checkpoint.readout.model_dump(mode="json"),
        "outputs": own.get("outputs", {}) | _untrained(checkpoint),
    }


def _untrained(checkpoint: Checkpoint) -> dict:
    """Entry of the manifest's ``outputs`` for types that nothing trained; empty without any."""
    names = checkpoint.untrained_types
    return {"untrained_types": names} if names else {}


def pair_cutoffs(model: GraphModel, *, num_types: int, r_max: float) -> tuple[float, ...]:
    """Cutoff of each (centre, neighbour) pair of types, row-major, Å."""
    normalizers = [m for m in model.modules() if isinstance(m, EdgeLengthNormalizer)]
    if not normalizers:
        return (r_max,) * num_types**2
    inverse = normalizers[0]._rmax_recip.to(torch.float64).reciprocal()
    return tuple(inverse.expand(num_types**2).tolist())


def _flat(values: object, size: int) -> tuple[float, ...]:
    if values is None:
        return (0.0,) * size
    flat = torch.as_tensor(values, dtype=torch.float64).flatten().tolist()
    assert len(flat) == size, "one distance per type pair"
    return tuple(flat)
