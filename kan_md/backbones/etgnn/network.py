"""The network: from a graph to the contribution of each atom to each tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

import torch
from e3nn.util.jit import compile_mode
from nequip.data import AtomicDataDict, register_fields
from nequip.nn import GraphModuleMixin
from nequip.nn.utils import with_edge_vectors_

from kan_md.backbones.etgnn.basis import angular_basis, envelope, radial_basis
from kan_md.backbones.etgnn.edge_block import EdgeBlock
from kan_md.backbones.etgnn.embedding_block import EdgeEmbedding, TripletEmbedding
from kan_md.backbones.etgnn.head import TensorHead
from kan_md.backbones.etgnn.node_block import NodeBlock
from kan_md.backbones.etgnn.spec import TensorSpec
from kan_md.backbones.etgnn.triplet_block import TripletBlock
from kan_md.backbones.etgnn.triplets import build_triplets

ATOMIC_TENSORS_KEY = "atomic_tensors"
"""[num_atoms, columns of all tensors]: what one atom contributes, before sums over atoms."""

register_fields(node_fields=[ATOMIC_TENSORS_KEY])


@compile_mode("script")
class TensorNetwork(GraphModuleMixin, torch.nn.Module):
    """ETGNN's trunk and heads on nequip's dict; writes :data:`ATOMIC_TENSORS_KEY`.

    Edge vectors may be given; positions are looked at only where they are not. With
    ``num_local_ghost_atoms`` in the dict, only the first of its two numbers of atoms get a tensor,
    the rest are ghosts that only send messages, and edges must be sorted by centre.

    Args:
        type_names: names of the species.
        tensors: what to predict.
        r_max: cutoff of edges, Å.
        triplet_r_max: cutoff of both legs of a triplet, Å; at most ``r_max``.
        num_layers: number of blocks.
        num_features: columns of edge messages.
        num_triplet_features: columns of triplet messages.
        num_radial: radial functions.
        num_angular: Legendre polynomials.
        avg_num_neighbors: typical number of edges per atom; sums are divided by its root.
        avg_num_triplets: typical number of triplets per edge shorter than ``triplet_r_max``.
        scales: per tensor name, size of the labels' variation.
        type_shifts: per tensor name, isotropic part per type.
    """

    def __init__(
        self,
        type_names: Sequence[str],
        tensors: Sequence[TensorSpec],
        *,
        r_max: float,
        triplet_r_max: float,
        num_layers: int,
        num_features: int,
        num_triplet_features: int,
        num_radial: int,
        num_angular: int,
        avg_num_neighbors: float,
        avg_num_triplets: float,
        scales: Mapping[str, float],
        type_shifts: Mapping[str, Sequence[float]],
    ):
        super().__init__()
        self.r_max = float(r_max)
        self.triplet_r_max = float(triplet_r_max)
        self.num_layers = num_layers
        self.num_radial = num_radial
        self.num_angular = num_angular
        edge_norm = 1.0 / sqrt(avg_num_neighbors)
        triplet_norm = 1.0 / sqrt(avg_num_triplets)
        num_sbf = num_radial * num_angular
        widths = (num_features, num_triplet_features)
        self.edge_embedding = EdgeEmbedding(len(type_names), num_radial, num_features)
        self.triplet_embedding = TripletEmbedding(num_sbf, *widths)
        self.edge_blocks = torch.nn.ModuleList(
            EdgeBlock(num_radial, num_sbf, *widths, norm=triplet_norm) for _ in range(num_layers)
        )
        self.triplet_blocks = torch.nn.ModuleList(
            TripletBlock(num_radial, num_sbf, *widths) for _ in range(num_layers)
        )
        self.first_node_block = NodeBlock(num_radial, *widths, norm=edge_norm)
        self.node_blocks = torch.nn.ModuleList(
            NodeBlock(num_radial, *widths, norm=edge_norm) for _ in range(num_layers)
        )
        self.heads = torch.nn.ModuleList(
            TensorHead(
                spec,
                *widths,
                edge_norm=edge_norm,
                triplet_norm=triplet_norm,
                scale=scales.get(spec.name, 1.0),
                type_shifts=type_shifts.get(spec.name, [0.0] * len(type_names)),
            )
            for spec in tensors
        )
        columns = sum(spec.num_components for spec in tensors)
        self._dtype = torch.get_default_dtype()
        self._vectors = AtomicDataDict.EDGE_VECTORS_KEY
        self._index = AtomicDataDict.EDGE_INDEX_KEY
        self._types = AtomicDataDict.ATOM_TYPE_KEY
        self._counts = AtomicDataDict.NUM_LOCAL_GHOST_NODES_KEY
        self._output = ATOMIC_TENSORS_KEY
        self._init_irreps(irreps_in={}, irreps_out={ATOMIC_TENSORS_KEY: f"{columns}x0e"})

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Write :data:`ATOMIC_TENSORS_KEY`, [num_atoms, columns]; rows of ghosts are zero."""
        data = with_edge_vectors_(data, with_lengths=False)
        vectors = data[self._vectors]  # [num_edges, 3]
        edge_index = data[self._index]
        atom_types = data[self._types].view(-1)
        num_atoms = atom_types.size(0)
        num_local = num_atoms
        if self._counts in data:
            num_local = int(data[self._counts][0])

        near, far = build_triplets(vectors, edge_index, num_atoms, self.triplet_r_max)
        length = vectors.square().sum(-1, keepdim=True).sqrt()  # [num_edges, 1]
        unit = (vectors / length).to(self._dtype)
        length = length.to(self._dtype)
        centre = edge_index[0]

        edge_envelope = envelope(length / self.r_max)  # [num_edges, 1]
        rbf = radial_basis(length.squeeze(-1) / self.r_max, self.num_radial) * edge_envelope
        leg = length / self.triplet_r_max
        leg_envelope = envelope(leg)  # [num_edges, 1]
        leg_rbf = radial_basis(leg.squeeze(-1), self.num_radial) * leg_envelope
        triplet_envelope = torch.index_select(leg_envelope, 0, near)
        sbf = self._triplet_basis(unit, leg_rbf, near, far) * triplet_envelope
        triplet_envelope = triplet_envelope * torch.index_select(leg_envelope, 0, far)

        # Atoms are ghosts only where edges are sorted by centre: local ones are a prefix, of
        # edges and of triplets.
        local_near, local_far, local_sbf = near, far, sbf
        local_centre = centre
        if num_local < num_atoms:
            local_centre = centre[: int((centre < num_local).sum())]
            own = int((torch.index_select(centre, 0, near) < num_local).sum())
            local_near, local_far, local_sbf = near[:own], far[:own], sbf[:own]
            triplet_envelope = triplet_envelope[:own]
        num_own = local_centre.size(0)

        x = self.edge_embedding(
            rbf,
            torch.index_select(atom_types, 0, centre),
            torch.index_select(atom_types, 0, edge_index[1]),
        )
        t = self.triplet_embedding(x, local_sbf, local_near, local_far)
        h = self.first_node_block(x[:num_own], rbf[:num_own], local_centre, num_local)
        for edge_block, triplet_block, node_block in zip(  # noqa: B905 - TorchScript has no strict
            self.edge_blocks, self.triplet_blocks, self.node_blocks
        ):
            t = triplet_block(t, x, rbf, local_sbf, local_near, local_far)
            x = edge_block(x, rbf, sbf, near, far)
            h = h + node_block(x[:num_own], rbf[:num_own], local_centre, num_local)

        tensors: list[torch.Tensor] = []
        for head in self.heads:
            tensors.append(
                head(
                    h,
                    x[:num_own],
                    t,
                    edge_envelope[:num_own],
                    triplet_envelope,
                    unit,
                    local_centre,
                    local_near,
                    local_far,
                    atom_types[:num_local],
                )
            )
        columns = torch.cat(tensors, dim=-1)
        ghosts = torch.zeros(
            num_atoms - num_local, columns.size(1), dtype=columns.dtype, device=columns.device
        )
        data[self._output] = torch.cat([columns, ghosts])
        return data

    def _triplet_basis(
        self, unit: torch.Tensor, leg_rbf: torch.Tensor, near: torch.Tensor, far: torch.Tensor
    ) -> torch.Tensor:
        """R_n(r_kj) P_l(cos of the angle at j), [num_triplets, num_radial * num_angular]."""
        back = torch.index_select(unit, 0, near)
        ahead = torch.index_select(unit, 0, far)
        cosine = -(back * ahead).sum(-1)
        angular = angular_basis(cosine, self.num_angular)  # [num_triplets, num_angular]
        radial = torch.index_select(leg_rbf, 0, far)  # [num_triplets, num_radial]
        return (radial.unsqueeze(-1) * angular.unsqueeze(1)).flatten(1)
