"""Node output: what an atom collects from its edges."""

from __future__ import annotations

import torch

from kan_md.backbones.etgnn.layers import Residual, UpProjection, linear, sum_to


class NodeBlock(torch.nn.Module):
    """h_i = up(W_d Σ_j W_r rbf_ji ⊙ x_ji), then a residual layer.

    The radial basis carries the edge envelope.

    Args:
        num_radial: columns of the radial basis.
        features: columns of the edge messages and of the result.
        triplet_features: columns in front of the up-projection.
        norm: factor on the sum over neighbours.
    """

    def __init__(
        self,
        num_radial: int,
        features: int,
        triplet_features: int,
        *,
        norm: float,
    ):
        super().__init__()
        self.norm = norm
        self.radial = linear(num_radial, features)
        self.down = linear(features, triplet_features)
        self.up = UpProjection(triplet_features, features)
        self.residual = Residual(features)

    def forward(
        self, x: torch.Tensor, rbf: torch.Tensor, centre: torch.Tensor, num_atoms: int
    ) -> torch.Tensor:
        """Collect.

        Args:
            x: [num_edges, features].
            rbf: [num_edges, num_radial].
            centre: [num_edges] int64.
            num_atoms: number of atoms.

        Returns:
            [num_atoms, features].
        """
        total = sum_to(x * self.radial(rbf), centre, num_atoms) * self.norm
        return self.residual(self.up(self.down(total)))
