"""Sizes, tensors and helpers that the tests of this folder share."""

import torch
from ase import Atoms

from kan_md.model.reference import model_input

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
