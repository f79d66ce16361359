"""Tensors from scalars: sums of dyads of unit vectors.

With e the unit vector of an edge j → i and q that of the far leg k → j of a triplet, an atom's
tensor is a sum of *forms*, each multiplied by one learned scalar:

=====  =============================  ===========================================================
rank   per edge                       per triplet
=====  =============================  ===========================================================
0      1                              1
1      e                              q
2      e⊗e                            q⊗e, and e⊗q unless symmetric
3      e⊗e⊗e, e⊗δ in its 3 places     q⊗e⊗e and e⊗q⊗q in their 3 places (2 and 2 where symmetric)
=====  =============================  ===========================================================

Rank 2 also takes pairs of an atom's own edges, Σ_c v_c⊗w_c with v_c = Σ_j a_c e_ji and w_c alike:
two scalars per edge for each of :data:`NUM_PAIRS` channels c, and no further triplets. Without them
the plane of a bridge k-i-j shows only through the leg k → j, which may be too long for a triplet.

Ranks 0 and 2 have one scalar per atom more, times 1 or δ. Sums over k are taken first, so that
tensors live on edges and atoms, never on triplets (rank 3: 9 numbers per triplet).
"""

from __future__ import annotations

import torch

from kan_md.backbones.etgnn.layers import sum_to
from kan_md.backbones.etgnn.spec import TensorSpec

NUM_PAIRS = 8
"""Channels of the products of two edges of one atom (rank 2)."""


def count_forms(spec: TensorSpec) -> tuple[int, int, int]:
    """Number of scalars per edge, per triplet and per atom that a tensor needs."""
    full = spec.symmetry == "full"
    return {
        0: (1, 1, 1),
        1: (1, 1, 0),
        2: (1 + 2 * NUM_PAIRS, 2 if full else 1, 1),
        3: (4, 6, 0) if full else (3, 4, 0),
    }[spec.rank]


def outer(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[n, 3], [n, 3] -> [n, 3, 3]."""
    return a.unsqueeze(-1) * b.unsqueeze(-2)


class TensorAssembly(torch.nn.Module):
    """Sum the forms of one tensor over an atom's edges and triplets.

    Args:
        spec: the tensor.
        edge_norm: factor on sums over edges.
        triplet_norm: further factor on sums over triplets.
    """

    def __init__(self, spec: TensorSpec, *, edge_norm: float, triplet_norm: float):
        super().__init__()
        self.rank = spec.rank
        self.symmetric = spec.symmetry != "full"
        self.traceless = spec.symmetry == "traceless"
        self.edge_norm = edge_norm
        self.triplet_norm = triplet_norm

    def forward(
        self,
        edge_scalars: torch.Tensor,
        triplet_scalars: torch.Tensor,
        atom_scalars: torch.Tensor,
        unit: torch.Tensor,
        centre: torch.Tensor,
        near: torch.Tensor,
        far: torch.Tensor,
    ) -> torch.Tensor:
        """Assemble.

        Args:
            edge_scalars: [num_edges, scalars per edge], envelope included.
            triplet_scalars: [num_triplets, triplet forms], envelopes included.
            atom_scalars: [num_atoms, 1]; zeros for odd ranks.
            unit: [num_all_edges, 3]; edges of ghosts come after the ``num_edges`` of local atoms.
            centre: [num_edges] int64.
            near: [num_triplets] int64.
            far: [num_triplets] int64.

        Returns:
            [num_atoms, 3**rank].
        """
        num_atoms = atom_scalars.size(0)
        triplet_scalars = triplet_scalars * self.triplet_norm
        legs = torch.index_select(unit, 0, far)  # [num_triplets, 3]; may start at ghosts
        unit = unit[: centre.size(0)]
        if self.rank == 0:
            edge = edge_scalars + sum_to(triplet_scalars, near, unit.size(0))
            return sum_to(edge, centre, num_atoms) * self.edge_norm + atom_scalars
        if self.rank == 1:
            edge = edge_scalars * unit + sum_to(triplet_scalars * legs, near, unit.size(0))
            return sum_to(edge, centre, num_atoms) * self.edge_norm
        if self.rank == 2:
            edge = self._matrix(edge_scalars, triplet_scalars, unit, legs, near)
        else:
            edge = self._rank_three(edge_scalars, triplet_scalars, unit, legs, near)
        total = sum_to(edge.flatten(1), centre, num_atoms) * self.edge_norm
        if self.rank == 2:
            total = total.view(-1, 3, 3) + self._pairs(edge_scalars, unit, centre, num_atoms)
            total = self._finish_matrix(total, atom_scalars)
        return total

    def _matrix(
        self,
        edge_scalars: torch.Tensor,
        triplet_scalars: torch.Tensor,
        unit: torch.Tensor,
        legs: torch.Tensor,
        near: torch.Tensor,
    ) -> torch.Tensor:
        """Rank 2 on edges, [num_edges, 3, 3]."""
        weighted = triplet_scalars.unsqueeze(-1) * legs.unsqueeze(1)  # [num_triplets, forms, 3]
        sums = sum_to(weighted, near, unit.size(0))  # [num_edges, forms, 3]
        edge = outer(edge_scalars[:, :1] * unit + sums[:, 0], unit)
        if not self.symmetric:
            edge = edge + outer(unit, sums[:, 1])
        return edge

    def _pairs(
        self, edge_scalars: torch.Tensor, unit: torch.Tensor, centre: torch.Tensor, num_atoms: int
    ) -> torch.Tensor:
        """Products of the edges of one atom, [num_atoms, 3, 3]."""
        weighted = edge_scalars[:, 1:].unsqueeze(-1) * unit.unsqueeze(1)  # [num_edges, 2 c, 3]
        sums = sum_to(weighted.flatten(1), centre, num_atoms) * self.edge_norm
        vectors = sums.view(num_atoms, 2, -1, 3)
        return torch.einsum("nca,ncb->nab", vectors[:, 0], vectors[:, 1])

    def _finish_matrix(self, matrix: torch.Tensor, atom_scalars: torch.Tensor) -> torch.Tensor:
        """Add the isotropic part and impose the symmetry, [num_atoms, 9]."""
        identity = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
        matrix = matrix + atom_scalars.view(-1, 1, 1) * identity
        if self.symmetric:
            matrix = 0.5 * (matrix + matrix.transpose(1, 2))
        if self.traceless:
            trace = matrix.diagonal(0, 1, 2).sum(-1).view(-1, 1, 1)
            matrix = matrix - trace / 3.0 * identity
        return matrix.flatten(1)

    def _rank_three(
        self,
        edge_scalars: torch.Tensor,
        triplet_scalars: torch.Tensor,
        unit: torch.Tensor,
        legs: torch.Tensor,
        near: torch.Tensor,
    ) -> torch.Tensor:
        """Rank 3 on edges, [num_edges, 3, 3, 3]."""
        identity = torch.eye(3, dtype=unit.dtype, device=unit.device).expand(unit.size(0), 3, 3)
        places = 2 if self.symmetric else 3
        single = sum_to(  # Σ_k t q, [num_edges, places, 3]
            triplet_scalars[:, :places].unsqueeze(-1) * legs.unsqueeze(1), near, unit.size(0)
        )
        double = sum_to(  # Σ_k t q⊗q, [num_edges, places, 3, 3]
            triplet_scalars[:, places:, None, None] * outer(legs, legs).unsqueeze(1),
            near,
            unit.size(0),
        )
        square = outer(unit, unit)
        edge = _first(edge_scalars[:, :1] * unit + single[:, 0], square)
        edge = edge + _first(edge_scalars[:, 1:2] * unit, identity) + _first(unit, double[:, 0])
        second = _second(edge_scalars[:, 2:3] * unit, identity) + _second(single[:, 1], square)
        second = second + _second(unit, double[:, 1])
        if self.symmetric:
            return edge + 0.5 * (second + second.transpose(2, 3))
        third = _third(edge_scalars[:, 3:4] * unit, identity) + _third(single[:, 2], square)
        return edge + second + third + _third(unit, double[:, 2])


def _first(vector: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """v_a m_bc, [n, 3, 3, 3]."""
    return vector[:, :, None, None] * matrix[:, None, :, :]


def _second(vector: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """v_b m_ac."""
    return vector[:, None, :, None] * matrix[:, :, None, :]


def _third(vector: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """v_c m_ab."""
    return vector[:, None, None, :] * matrix[:, :, :, None]
