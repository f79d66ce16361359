"""Structures and labels that no tensor model can have to do with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from kan_md.backbones.etgnn.spec import TensorSpec
from kan_md.errors import KanMdError, user_error

ASYMMETRY = 1e-3
"""Largest antisymmetric (or trace) part of a label, relative to the largest component of all."""


def check_cell(atoms: Atoms, spec: TensorSpec) -> None:
    """Refuse a structure without the cell that a crystal's tensor needs.

    Raises:
        KanMdError: it is one.
    """
    if spec.per == "structure" and spec.reduction == "mean" and not atoms.pbc.all():
        raise user_error(
            f"{spec.name} is a crystal's tensor and needs a cell periodic in three directions",
            found=f"pbc {' '.join('TF'[not p] for p in atoms.pbc)}",
            allowed="T T T",
            remedy="give the structure its cell, or set reduction: sum for molecules",
        )


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
        check_cell(atoms, spec)
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


def _source(atoms: Atoms) -> str:
    return str(atoms.info.get("source", atoms.get_chemical_formula()))
