"""Tensor labels of the training set: do they fit what is asked for, and how large are they."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from nequip.data import AtomicDataDict

from kan_md.backbones.etgnn.spec import TensorSpec
from kan_md.data.dataset import FramesDataset, edge_lengths
from kan_md.errors import KanMdError, user_error
from kan_md.model.tensors import check_structure

ASYMMETRY = 1e-3
"""Largest antisymmetric (or trace) part of a label, relative to the largest component of all."""


def check_tensor_labels(frames: Sequence[Atoms], specs: Sequence[TensorSpec]) -> None:
    """Hold labels against the declared number of columns, symmetry and owner.

    Labels that are missing altogether are not looked at.

    Args:
        frames: structures with labels in ``arrays`` (per atom) or ``info``.
        specs: tensors to learn.

    Raises:
        KanMdError: a label has another number of columns or is not as symmetric as declared, or a
            structure has no periodic cell where a crystal's tensor is asked for.
    """
    for spec in specs:
        labels = []
        for atoms in frames:
            _check_structure(atoms, spec)
            label = _label(atoms, spec)
            if label is not None:
                labels.append((atoms, label))
        if spec.symmetry == "full" or not labels:
            continue
        largest = max(np.nanmax(np.abs(label)) for _, label in labels)
        for atoms, label in labels:
            _check_symmetry(atoms, label, spec, ASYMMETRY * largest)


def _check_structure(atoms: Atoms, spec: TensorSpec) -> None:
    try:
        check_structure(atoms, [spec])
    except KanMdError as error:
        raise KanMdError(f"{_source(atoms)}: {error}") from error


def _label(atoms: Atoms, spec: TensorSpec) -> np.ndarray | None:
    """[rows, 3, …, 3]."""
    place = atoms.arrays if spec.per == "atom" else atoms.info
    if spec.name not in place:
        return None
    array = np.asarray(place[spec.name], dtype=float)
    rows = len(atoms) if spec.per == "atom" else 1
    if array.size != rows * spec.num_components:
        columns = array.size / rows
        raise user_error(
            f"{_source(atoms)}: columns of {spec.name} for rank {spec.rank}",
            found=int(columns) if columns == int(columns) else columns,
            allowed=spec.num_components,
            remedy="correct the file, or targets[].rank",
        )
    return None if np.isnan(array).all() else array.reshape(rows, *([3] * spec.rank))


def _check_symmetry(atoms: Atoms, label: np.ndarray, spec: TensorSpec, tolerance: float) -> None:
    parts = {"an antisymmetric part": 0.5 * np.nanmax(np.abs(label - label.swapaxes(-1, -2)))}
    if spec.symmetry == "traceless":
        parts["a trace"] = np.nanmax(np.abs(np.trace(label, axis1=-2, axis2=-1)))
    for name, size in parts.items():
        if size > tolerance:
            raise user_error(
                f"{_source(atoms)}: label of the {spec.symmetry} tensor {spec.name}",
                found=f"{name} of {size:.3g}",
                allowed=f"<= {tolerance:.3g}",
                remedy="correct the labels, or set targets[].symmetry: full",
            )


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


def _source(atoms: Atoms) -> str:
    return str(atoms.info.get("source", atoms.get_chemical_formula()))
