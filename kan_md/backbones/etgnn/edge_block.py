"""Edge update: what flows into an edge from the edges behind its neighbour."""

from __future__ import annotations

import torch

from kan_md.backbones.etgnn.layers import Residual, UpProjection, linear, sum_to


class EdgeBlock(torch.nn.Module):
    """x_ji ← x_ji + up(Σ_k σ(W_d (x_kj ⊙ W_r rbf_kj)) ⊙ W_s sbf_kji), then a residual layer.

    The triplet basis carries both legs' envelopes and ``up`` gives 0 for 0: the update vanishes
    smoothly when either leg grows to its cutoff.

    Args:
        num_radial: columns of the radial basis.
        num_sbf: columns of the triplet basis.
        features: columns of the edge messages, x.
        triplet_features: columns between down- and up-projection.
        norm: factor on the sum over k.
    """

    def __init__(
        self,
        num_radial: int,
        num_sbf: int,
        features: int,
        triplet_features: int,
        *,
        norm: float,
    ):
        super().__init__()
        self.norm = norm
        self.radial = linear(num_radial, features)
        self.down = linear(features, triplet_features)
        self.basis = linear(num_sbf, triplet_features)
        self.up = UpProjection(triplet_features, features)
        self.residual = Residual(features)

    def forward(
        self,
        x: torch.Tensor,
        rbf: torch.Tensor,
        sbf: torch.Tensor,
        near: torch.Tensor,
        far: torch.Tensor,
    ) -> torch.Tensor:
        """Update.

        Args:
            x: [num_edges, features].
            rbf: [num_edges, num_radial].
            sbf: [num_triplets, num_sbf].
            near: [num_triplets] int64, edge (i, j).
            far: [num_triplets] int64, edge (j, k).

        Returns:
            [num_edges, features].
        """
        down = torch.nn.functional.silu(self.down(x * self.radial(rbf)))  # [num_edges, t]
        incoming = torch.index_select(down, 0, far) * self.basis(sbf)  # [num_triplets, t]
        total = sum_to(incoming, near, x.size(0)) * self.norm  # [num_edges, t]
        return self.residual(x + self.up(total))
