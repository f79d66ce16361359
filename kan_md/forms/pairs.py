"""The radial-chemical embedding of pairs as one linear map of radial functions per pair of types.

Upstream multiplies a linear map of the radial functions with an embedding of both types, and its
result is mapped on. With the radial functions of a pair in the columns of its two types, and zeros
in the others, all of that is one matrix product.
"""

from __future__ import annotations

import torch
from allegro.nn._edgeembed import ProductTypeEmbedding
from nequip.data import AtomicDataDict
from nequip.nn import SequentialGraphNetwork, with_edge_type_
from nequip.nn.embedding import BesselEdgeLengthEncoding

from kan_md.forms.networks import linear_weight

_MOST_COLUMNS = 128
"""Of pairs of types times radial functions; with more of them upstream's way is as good."""


def knows_pair_embedding(embed: torch.nn.Module, first: object) -> bool:
    """Whether an embedding and the map behind it are such a product.

    Args:
        embed: upstream's ``radial_chemical_embed``.
        first: what follows it, a matrix or another function.
    """
    parts = dict(embed.named_children()) if isinstance(embed, SequentialGraphNetwork) else {}
    if list(parts) != ["bessel_encode", "type_embed"] or not isinstance(first, torch.Tensor):
        return False
    bessel, types = parts["bessel_encode"], parts["type_embed"]
    return (
        type(bessel) is BesselEdgeLengthEncoding
        and type(types) is ProductTypeEmbedding
        and not types.basis_linear.bias
        and bessel.num_bessels * types.num_types**2 <= _MOST_COLUMNS
    )


def pair_weights(embed: torch.nn.Module, first: torch.Tensor) -> torch.Tensor:
    """Map of the columns of :class:`PairBasis`, [pairs * radial functions, width] float64."""
    types = embed.type_embed
    centre, neighbour = (
        table.weight.double() for table in (types.center_embed, types.neighbor_embed)
    )
    number = types.num_types
    of_pair = torch.cat(  # [pairs, embedding], row-major in (centre, neighbour)
        [centre.repeat_interleave(number, dim=0), neighbour.repeat(number, 1)], dim=1
    )
    basis = linear_weight(types.basis_linear)  # [radial functions, embedding]
    return ((of_pair.unsqueeze(1) * basis) @ first).flatten(0, 1)


class PairBasis(torch.nn.Module):
    """Radial functions of each edge in the columns of its pair of types.

    Args:
        embed: upstream's ``radial_chemical_embed``.
    """

    def __init__(self, embed: torch.nn.Module):
        super().__init__()
        self.bessel = embed.bessel_encode
        self.num_types = embed.type_embed.num_types
        self.type_field = embed.type_embed.edge_type_field
        self.field = embed.type_embed.in_field

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Put [num_edges, pairs * radial functions] in the place of the embedding."""
        data = self.bessel(data)
        if self.num_types > 1:
            data = with_edge_type_(data, edge_type_field=self.type_field)
            centre, neighbour = data[self.type_field]
            pair = centre * self.num_types + neighbour
            basis = data[self.field]
            own = torch.nn.functional.one_hot(pair, self.num_types**2).to(basis.dtype)
            data[self.field] = (own.unsqueeze(2) * basis.unsqueeze(1)).flatten(1)
        return data
