"""Tensor labels of the training set: what a model of them is normalised with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from nequip.data import AtomicDataDict

from kan_md.backbones.etgnn.spec import TensorSpec
from kan_md.data.dataset import FramesDataset, edge_lengths
from kan_md.data.label_report import structures
from kan_md.data.outliers import FEWEST, LARGEST_SHARE, TIMES

_SUM = 0.1
"""Mean of a tensor over the atoms, in units of its size, from which on it is no rounding."""


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
        left of a component, without outliers.
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


def tensor_outliers(dataset: FramesDataset, spec: TensorSpec) -> list[int]:
    """Indices of structures whose labels are far larger than those of nearly all others."""
    sizes = [data[spec.field].square().nanmean().sqrt().item() for data in dataset.data_list]
    known = [index for index, size in enumerate(sizes) if size == size]
    if len(known) < FEWEST:
        return []
    usual = torch.tensor([sizes[index] for index in known]).quantile(0.75, interpolation="lower")
    found = [index for index in known if sizes[index] > TIMES * float(usual)]
    return found if len(found) <= max(1, LARGEST_SHARE * len(known)) else []


def tensor_doubts(dataset: FramesDataset, specs: Sequence[TensorSpec]) -> list[tuple[str, int]]:
    """What of the labels deserves a second look, and the index of the first structure of it."""
    doubts = []
    for spec in specs:
        outliers = tensor_outliers(dataset, spec)
        labels = [data[spec.field] for data in dataset.data_list]
        if outliers:
            largest = max(float(labels[index].abs().nan_to_num().max()) for index in outliers)
            text = (
                f"{spec.name} of {structures(len(outliers))} far larger than the others, up to "
                f"{largest:.3g}; not in the scale"
            )
            doubts.append((text, outliers[0]))
        if not spec.projects:
            continue
        sums = {
            index: float(label.flatten(1).mean(0).abs().max())
            for index, label in enumerate(labels)
            if not label.isnan().any() and index not in outliers
        }
        size = _scale(dataset, spec, [0.0] * len(dataset.type_names))
        odd = [index for index, mean in sums.items() if mean > _SUM * size]
        if len(odd) > len(sums) / 2:
            text = (
                f"{spec.name} does not add up to 0 in {structures(len(odd))}, up to "
                f"{max(sums[index] for index in odd):.3g} per atom, and what is predicted does; "
                "targets[].acoustic_sum_rule: false leaves it"
            )
            doubts.append((text, odd[0]))
    return doubts


def _isotropic_shifts(dataset: FramesDataset, spec: TensorSpec) -> list[float]:
    """Mean isotropic part per type; of structures the part that every atom contributes."""
    types = len(dataset.type_names)
    if spec.rank not in (0, 2) or spec.symmetry == "traceless":
        return [0.0] * types
    values, kinds, outliers = [], [], set(tensor_outliers(dataset, spec))
    for index, data in enumerate(dataset.data_list):
        if index in outliers:
            continue
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
    squares, outliers = [], set(tensor_outliers(dataset, spec))
    for index, data in enumerate(dataset.data_list):
        if index in outliers:
            continue
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
