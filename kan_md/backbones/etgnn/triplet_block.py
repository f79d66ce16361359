"""Triplet update: the edge update's front without its sum."""

from __future__ import annotations

import torch

from kan_md.backbones.etgnn.layers import linear


class TripletBlock(torch.nn.Module):
    """t_kji ← t_kji + W_u σ(σ(W_d (x_kj ⊙ W_r rbf_kj)) ⊙ W_s sbf_kji + W_n x_ji).

    Args:
        num_radial: columns of the radial basis.
        num_sbf: columns of the triplet basis.
        features: columns of the edge messages, x.
        triplet_features: columns of the triplet messages, t.
    """

    def __init__(self, num_radial: int, num_sbf: int, features: int, triplet_features: int):
        super().__init__()
        self.radial = linear(num_radial, features)
        self.down = linear(features, triplet_features)
        self.near = linear(features, triplet_features)
        self.basis = linear(num_sbf, triplet_features)
        self.up = linear(triplet_features, triplet_features)

    def forward(
        self,
        t: torch.Tensor,
        x: torch.Tensor,
        rbf: torch.Tensor,
        sbf: torch.Tensor,
        near: torch.Tensor,
        far: torch.Tensor,
    ) -> torch.Tensor:
        """Update.

        Args:
            t: [num_triplets, triplet_features].
            x: [num_edges, features].
            rbf: [num_edges, num_radial].
            sbf: [num_triplets, num_sbf].
            near: [num_triplets] int64, edge (i, j).
            far: [num_triplets] int64, edge (j, k).

        Returns:
            [num_triplets, triplet_features].
        """
        down = torch.nn.functional.silu(self.down(x * self.radial(rbf)))  # [num_edges, t]
        incoming = torch.index_select(down, 0, far) * self.basis(sbf)  # [num_triplets, t]
        incoming = incoming + torch.index_select(self.near(x), 0, near)
        return t + self.up(torch.nn.functional.silu(incoming))
