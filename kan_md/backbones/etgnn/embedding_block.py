"""First messages: species and distances on edges, distances and angles on triplets."""

from __future__ import annotations

import torch

from kan_md.backbones.etgnn.layers import linear


class EdgeEmbedding(torch.nn.Module):
    """m_ji = σ(W [z_i, z_j, σ(W_r rbf_ji)]).

    Args:
        num_types: number of species.
        num_radial: columns of the radial basis.
        features: columns of the message.
    """

    def __init__(self, num_types: int, num_radial: int, features: int):
        super().__init__()
        self.radial = linear(num_radial, features)
        self.centre = torch.nn.Embedding(num_types, features)
        self.neighbour = torch.nn.Embedding(num_types, features)
        self.mix = linear(features, features)

    def forward(
        self, rbf: torch.Tensor, centre_types: torch.Tensor, neighbour_types: torch.Tensor
    ) -> torch.Tensor:
        """Embed.

        Args:
            rbf: [num_edges, num_radial].
            centre_types: [num_edges] int64.
            neighbour_types: [num_edges] int64.

        Returns:
            [num_edges, features].
        """
        radial = self.mix(torch.nn.functional.silu(self.radial(rbf)))
        # A linear map of a concatenation is the sum of linear maps of its parts, and a linear map
        # of a species embedding is another species embedding.
        return torch.nn.functional.silu(
            radial + self.centre(centre_types) + self.neighbour(neighbour_types)
        )


class TripletEmbedding(torch.nn.Module):
    """t_kji = σ(W_n m_ji + W_f m_kj + W_s sbf_kji).

    The two edge messages carry the three species and the two distances. Their linear maps are
    taken on edges, before they are gathered onto triplets.

    Args:
        num_sbf: columns of the triplet basis.
        features: columns of the edge messages.
        triplet_features: columns of the triplet messages.
    """

    def __init__(self, num_sbf: int, features: int, triplet_features: int):
        super().__init__()
        self.near = linear(features, triplet_features)
        self.far = linear(features, triplet_features)
        self.basis = linear(num_sbf, triplet_features)

    def forward(
        self, messages: torch.Tensor, sbf: torch.Tensor, near: torch.Tensor, far: torch.Tensor
    ) -> torch.Tensor:
        """Embed.

        Args:
            messages: [num_edges, features].
            sbf: [num_triplets, num_sbf].
            near: [num_triplets] int64, edge (i, j) of each triplet.
            far: [num_triplets] int64, edge (j, k).

        Returns:
            [num_triplets, triplet_features].
        """
        return torch.nn.functional.silu(
            torch.index_select(self.near(messages), 0, near)
            + torch.index_select(self.far(messages), 0, far)
            + self.basis(sbf)
        )
