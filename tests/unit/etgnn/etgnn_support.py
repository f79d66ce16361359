"""Sizes, tensors and helpers that the tests of this folder share."""

from pathlib import Path

import torch
from ase import Atoms

from kan_md.model.checkpoint import Checkpoint, save_checkpoint
from kan_md.model.reference import model_input
from kan_md.tasks.tensor import TensorTask

R_MAX = 4.0
LEG_R_MAX = 3.2
TYPES = ("Mg", "Na", "O")

TINY = {
    "num_layers": 2,
    "num_features": 8,
    "num_triplet_features": 6,
    "num_radial": 4,
    "num_angular": 4,
    "avg_num_neighbors": 20.0,
    "avg_num_triplets": 10.0,
    "triplet_r_max": LEG_R_MAX,
}

TENSORS = (
    {"name": "charge_like", "rank": 0},
    {"name": "vector", "rank": 1},
    {"name": "bec"},
    {"name": "stress_like", "rank": 2, "symmetry": "symmetric"},
    {"name": "field_gradient", "rank": 2, "symmetry": "traceless"},
    {"name": "rank_three", "rank": 3},
    {"name": "piezo_like", "rank": 3, "symmetry": "symmetric"},
    {"name": "energy_like", "rank": 0, "per": "structure", "reduction": "sum"},
    {"name": "moment", "rank": 1, "per": "structure", "reduction": "sum"},
    {"name": "susceptibility", "rank": 2, "per": "structure", "symmetry": "symmetric"},
    {"name": "piezo", "rank": 3, "per": "structure", "symmetry": "symmetric"},
)
"""Every rank, symmetry and owner."""


def write_checkpoint(build, crystal: Atoms, path: Path, **keywords) -> Path:
    """model.pth of an untrained model with one reference frame.

    Args:
        build: the fixture of that name.
        crystal: the reference frame.
        path: of the file.
        keywords: as for ``build``; ``tensors`` is needed.
    """
    arguments = {"seed": 5, "model_dtype": "float64", "type_names": list(TYPES), "r_max": R_MAX}
    arguments |= {**TINY, **keywords}
    model = build(**arguments)
    frames = TensorTask.of_arguments(arguments).reference_frames(model, [crystal])
    checkpoint = Checkpoint(
        backbone="etgnn",
        config={"model": arguments},
        type_names=list(TYPES),
        r_max=R_MAX,
        state_dict=model.state_dict(),
        reference_frames=frames,
    )
    return save_checkpoint(checkpoint, path)


def predict(model: torch.nn.Module, atoms: Atoms) -> dict[str, torch.Tensor]:
    """Fields of a structure, without gradients."""
    with torch.no_grad():
        return model(model_input(atoms, R_MAX, TYPES))


def rotate_tensor(tensor: torch.Tensor, rotation: torch.Tensor, rank: int) -> torch.Tensor:
    """Rotate every index of [n, 3**rank] or [n, 3, 3], and return it flat."""
    rows = tensor.reshape(-1, *([3] * rank))
    letters, turned = "abc"[:rank], "xyz"[:rank]
    factors = ",".join(f"{t}{o}" for t, o in zip(turned, letters, strict=True))
    formula = f"{factors},n{letters}->n{turned}" if rank else "n->n"
    return torch.einsum(formula, *([rotation] * rank), rows).reshape(rows.size(0), -1)
