"""ETGNN: equivariant tensor properties from scalar messages on edges and triplets.

Zhong, Yu, Gong, Xiang, J. Phys. Chem. Lett. 2023;14:6339, written from the description, with three
differences on purpose: every sum over neighbours carries an envelope that vanishes twice
differentiably at its cutoff, no neighbour is ever truncated, and the isotropic part of a tensor has
a head of its own. Only scalars are learned; tensors are assembled from unit vectors, so rotations
and inversions act on the output exactly as on the structure.
"""

from kan_md.backbones.etgnn.builder import (
    ETGNNKANModel,
    default_triplet_r_max,
    num_layers,
    receptive_field,
    sites,
)
from kan_md.backbones.etgnn.spec import TensorSpec, parse_tensors

__all__ = [
    "ETGNNKANModel",
    "TensorSpec",
    "default_triplet_r_max",
    "num_layers",
    "parse_tensors",
    "receptive_field",
    "sites",
]
