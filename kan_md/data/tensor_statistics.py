"""Tensor labels of the training set: what a model of them is normalised with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from nequip.data import AtomicDataDict

from kan_md.backbones.etgnn.spec import TensorSpec
from kan_md.data.dataset import FramesDataset, edge_lengths


def tensor_statistics(
    dataset: FramesDataset, specs: Sequence[TensorSpec], leg_r_max: float
) -> dict[str, object]:
    """Numbers that a tensor model is normalised with.

    Args:
        dataset: training set with labels.
        specs: tensors to learn.
        leg_r_max: cutoff of triplet legs, Å.

    Returns:
        ``avg_num_triplets`` per edge shorter than ``leg_r_max``; ``type_shifts``, per tensor name
        the isotropic part per type; ``scales``, per tensor name the root mean square of what is
        left of a component.
    """
    shifts, scales = {}, {}
    for spec in specs:
        shifts[spec.name] = _isotropic_shifts(dataset, spec)
        scales[spec.name] = _scale(dataset, spec, shifts[spec.name])
    return {
        "avg_num_triplets": _triplets_per_edge(dataset, leg_r_max),
        "type_shifts": shifts,
        "scales": scales,
    }


def _isotropic_shifts(dataset: FramesDataset, spec: TensorSpec) -> list[float]:
    """Mean isotropic part per type; of structures the part that every atom contributes."""
    types = len(dataset.type_names)
    if spec.rank not in (0, 2) or spec.symmetry == "traceless":
        return [0.0] * types
    values, kinds = [], []
    for data in dataset.data_list:
        value = _isotropic_part(data[spec.field], spec)
        known = ~value.isnan()
        kind = data[AtomicDataDict.ATOM_TYPE_KEY]
        if spec.per == "structure":
            value = value / (len(kind) if spec.reduction == "sum" else 1)
            kind = torch.zeros(1, dtype=torch.int64)
        values.append(value[known])
        kinds.append(kind[known])
    value, kind = torch.cat(values), torch.cat(kinds)
    if spec.per == "structure":
        return [float(value.mean()) if len(value) else 0.0] * types
    return [
        float(value[kind == index].mean()) if (kind == index).any() else 0.0
        for index in range(types)
    ]


def _isotropic_part(label: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """[rows]."""
    if spec.rank == 0:
        return label.reshape(-1)
    return label.reshape(-1, 3, 3).diagonal(dim1=1, dim2=2).mean(-1)


def _scale(dataset: FramesDataset, spec: TensorSpec, shifts: Sequence[float]) -> float:
    identity = torch.ones(1) if spec.rank == 0 else torch.eye(3).flatten()
    if spec.rank not in (0, 2):
        identity = torch.zeros(spec.num_components)
    squares = []
    for data in dataset.data_list:
        kind = data[AtomicDataDict.ATOM_TYPE_KEY]
        shift = torch.tensor(shifts, dtype=torch.float64)[kind]  # [num_atoms]
        if spec.per == "structure":
            shift = (shift.sum() if spec.reduction == "sum" else shift.mean()).view(1)
        rest = data[spec.field].reshape(-1, spec.num_components) - shift.view(-1, 1) * identity
        squares.append(rest[~rest.isnan()].square())
    square = torch.cat(squares)
    scale = float(square.mean().sqrt()) if len(square) else 0.0
    return scale if scale > 1e-12 else 1.0


def _triplets_per_edge(dataset: FramesDataset, leg_r_max: float) -> float:
    triplets = edges = 0
    for data in dataset.data_list:
        short = edge_lengths(data) < leg_r_max
        centre, neighbour = data[AtomicDataDict.EDGE_INDEX_KEY][:, short]
        degree = torch.bincount(centre, minlength=len(data[AtomicDataDict.ATOM_TYPE_KEY]))
        triplets += int((degree[neighbour] - 1).sum())
        edges += int(short.sum())
    return max(1.0, triplets / max(1, edges))
