"""The output block of one tensor: readouts into scalars, then the assembly."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kan_md.backbones.etgnn.assembly import TensorAssembly, count_forms
from kan_md.backbones.etgnn.layers import linear
from kan_md.backbones.etgnn.spec import TensorSpec
from kan_md.backbones.readout import ReadoutConfig, make_readout

DENSE = ReadoutConfig(kind="linear")
"""What stands where the user's readout does not."""


class TensorHead(torch.nn.Module):
    """Scalars m̂_ji, t̂_kji and ô_i from messages, and the tensor that they make.

    Messages of edges and triplets are modulated by their centre's features, x ⊙ (1 + W h_i), so
    that one edge's scalar can depend on everything around the atom.

    Args:
        spec: the tensor.
        features: columns of edge messages and atom features.
        triplet_features: columns of triplet messages.
        edge_norm: factor on sums over edges.
        triplet_norm: factor on sums over the triplets of one edge.
        scale: size of the labels' variation, in their unit.
        type_shifts: isotropic part of an atom without neighbours, one per type.
    """

    def __init__(
        self,
        spec: TensorSpec,
        features: int,
        triplet_features: int,
        *,
        edge_norm: float,
        triplet_norm: float,
        scale: float,
        type_shifts: Sequence[float],
    ):
        super().__init__()
        num_edge, num_triplet, num_atom = count_forms(spec)
        self.tensor = spec.name
        self.edge_gate = linear(features, features)
        self.triplet_gate = linear(features, triplet_features)
        self.edge_readout = make_readout(features, num_edge, DENSE)
        self.triplet_readout = make_readout(triplet_features, num_triplet, DENSE)
        # Odd ranks have no isotropic tensor, hence no scalar per atom.
        self.atom_readout = make_readout(features, 1, DENSE) if num_atom else None
        self.assembly = TensorAssembly(spec, edge_norm=edge_norm, triplet_norm=triplet_norm)
        self.scale = float(scale)
        shifts = torch.as_tensor([float(shift) for shift in type_shifts])
        self.register_buffer("type_shifts", shifts.to(torch.get_default_dtype()))
        self.register_buffer("isotropic", _isotropic_tensor(spec))

    def forward(
        self,
        h: torch.Tensor,
        x: torch.Tensor,
        t: torch.Tensor,
        edge_envelope: torch.Tensor,
        triplet_envelope: torch.Tensor,
        unit: torch.Tensor,
        centre: torch.Tensor,
        near: torch.Tensor,
        far: torch.Tensor,
        atom_types: torch.Tensor,
    ) -> torch.Tensor:
        """Predict.

        Args:
            h: [num_atoms, features].
            x: [num_edges, features].
            t: [num_triplets, triplet_features].
            edge_envelope: [num_edges, 1].
            triplet_envelope: [num_triplets, 1], product of both legs' envelopes.
            unit: [num_all_edges, 3]; edges of ghosts come after the ``num_edges`` of local atoms.
            centre: [num_edges] int64.
            near: [num_triplets] int64.
            far: [num_triplets] int64.
            atom_types: [num_atoms] int64.

        Returns:
            [num_atoms, 3**rank], in the labels' unit.
        """
        triplet_centre = torch.index_select(centre, 0, near)
        edge_gate = 1.0 + torch.index_select(self.edge_gate(h), 0, centre)
        triplet_gate = 1.0 + torch.index_select(self.triplet_gate(h), 0, triplet_centre)
        edge_scalars = self.edge_readout(x * edge_gate) * edge_envelope
        triplet_scalars = self.triplet_readout(t * triplet_gate) * triplet_envelope
        atom_scalars = torch.zeros(h.size(0), 1, dtype=h.dtype, device=h.device)
        if self.atom_readout is not None:
            atom_scalars = self.atom_readout(h)
        tensor = self.assembly(edge_scalars, triplet_scalars, atom_scalars, unit, centre, near, far)
        shifts = torch.index_select(self.type_shifts, 0, atom_types).unsqueeze(-1)
        return tensor * self.scale + shifts * self.isotropic


def _isotropic_tensor(spec: TensorSpec) -> torch.Tensor:
    """The isotropic tensor of a rank and symmetry, flat; zero where there is none."""
    dtype = torch.get_default_dtype()
    if spec.rank == 0:
        return torch.ones(1, dtype=dtype)
    if spec.rank == 2 and spec.symmetry != "traceless":
        return torch.eye(3, dtype=dtype).flatten()
    return torch.zeros(spec.num_components, dtype=dtype)
