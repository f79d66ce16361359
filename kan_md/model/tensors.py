"""Tensor models on structures: what the eager model says, by the tensors' own names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import ase
import numpy as np
import torch
from nequip.data import AtomicDataDict
from nequip.nn.graph_model import GraphModel

from kan_md.backbones.etgnn.spec import TensorSpec, parse_tensors
from kan_md.errors import user_error
from kan_md.model.reference import model_input

if TYPE_CHECKING:
    from kan_md.model.checkpoint import Checkpoint

BACKBONES = ("etgnn",)
"""Backbones whose models give tensors instead of an energy."""


def is_tensor_backbone(backbone: str) -> bool:
    """Whether models of this backbone predict tensors."""
    return backbone in BACKBONES


def tensors_of(checkpoint: Checkpoint) -> tuple[TensorSpec, ...]:
    """What a checkpoint predicts.

    Raises:
        KanMdError: it holds a potential.
    """
    if not is_tensor_backbone(checkpoint.backbone):
        raise user_error(
            "backbone of a tensor model",
            found=checkpoint.backbone,
            allowed=", ".join(BACKBONES),
            remedy="use a model trained for tensors",
        )
    return parse_tensors(checkpoint.config["model"].get("tensors"))


def check_structure(atoms: ase.Atoms, specs: Iterable[TensorSpec]) -> None:
    """Refuse a structure for which a tensor is not defined.

    Raises:
        KanMdError: a crystal's tensor is asked for and the structure has no periodic cell.
    """
    for spec in specs:
        if spec.per == "structure" and spec.reduction == "mean" and not atoms.pbc.all():
            raise user_error(
                f"{spec.name} is a crystal's tensor and needs a cell periodic in three directions",
                found=f"pbc {' '.join('TF'[not p] for p in atoms.pbc)}",
                allowed="T T T",
                remedy="give the structure its cell, or set reduction: sum for molecules",
            )


def predict_tensors(
    model: GraphModel, specs: Sequence[TensorSpec], atoms: ase.Atoms
) -> dict[str, np.ndarray]:
    """Evaluate the eager model.

    Args:
        model: tensor model in eval mode.
        specs: its tensors.
        atoms: the structure.

    Returns:
        By name: [num_atoms, 3**rank] float64, or [3**rank] per structure.

    Raises:
        KanMdError: an element is unknown, or there is no cell where one is needed.
    """
    check_structure(atoms, specs)
    device = next(model.parameters()).device
    data = model_input(atoms, float(model.metadata["r_max"]), model.type_names)
    with torch.no_grad():
        out = model({name: tensor.to(device) for name, tensor in data.items()})
    return {spec.name: as_array(out[spec.field], spec) for spec in specs}


def as_array(tensor: torch.Tensor, spec: TensorSpec) -> np.ndarray:
    """A tensor of one structure as extended XYZ keeps it, see :func:`predict_tensors`."""
    array = tensor.detach().to("cpu", torch.float64).reshape(-1, spec.num_components).numpy()
    return array[0] if spec.per == "structure" else array


def make_tensor_frames(
    model: GraphModel, specs: Sequence[TensorSpec], atoms_list: Iterable[ase.Atoms]
) -> list[dict]:
    """Reference frames for a tensor model's checkpoint.

    Returns:
        Per structure ``positions``, ``cell``, ``pbc``, ``atom_types`` as in
        :class:`kan_md.model.reference.ReferenceFrame`, and ``tensors``, flat arrays by name.
    """
    was_training = model.training
    model.eval()
    try:
        return [_tensor_frame(model, specs, atoms) for atoms in atoms_list]
    finally:
        model.train(was_training)


def _tensor_frame(model: GraphModel, specs: Sequence[TensorSpec], atoms: ase.Atoms) -> dict:
    data = model_input(atoms, float(model.metadata["r_max"]), model.type_names)
    tensors = predict_tensors(model, specs, atoms)
    return {
        "positions": data[AtomicDataDict.POSITIONS_KEY].clone(),
        "cell": torch.from_numpy(atoms.cell.array.copy()),
        "pbc": torch.from_numpy(atoms.pbc.copy()),
        "atom_types": data[AtomicDataDict.ATOM_TYPE_KEY],
        "tensors": {name: torch.from_numpy(array) for name, array in tensors.items()},
    }
