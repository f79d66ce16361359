"""mace-torch's blocks as nequip graph modules: AtomicDataDict in, AtomicDataDict out.

Only wiring is in here. MACE points an edge from the neighbour (sender) to the centre (receiver)
with r_centre - r_neighbour as its vector; nequip has centre first and the opposite vector. Both
turns are made where the blocks are called.
"""

from __future__ import annotations

import torch
from e3nn.o3 import Irreps
from e3nn.util.jit import compile_mode
from nequip.data import AtomicDataDict
from nequip.nn import GraphModuleMixin, with_edge_vectors_

from kan_md.kan.per_type import by_type


@compile_mode("script")
class MACENodeEmbedding(GraphModuleMixin, torch.nn.Module):
    """One-hot types and MACE's linear embedding of them.

    Args:
        node_embedding: mace-torch's ``LinearNodeEmbeddingBlock``.
        num_types: number of atom types.
        num_features: number of scalars that the embedding gives.
    """

    def __init__(self, node_embedding: torch.nn.Module, *, num_types: int, num_features: int):
        super().__init__()
        self.node_embedding = node_embedding
        self.num_types = num_types
        self._dtype = torch.get_default_dtype()
        self._init_irreps(
            irreps_out={
                AtomicDataDict.NODE_ATTRS_KEY: Irreps([(num_types, (0, 1))]),
                AtomicDataDict.NODE_FEATURES_KEY: Irreps([(num_features, (0, 1))]),
            }
        )

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Add ``node_attrs`` [num_atoms, num_types] and ``node_features``."""
        types = data[AtomicDataDict.ATOM_TYPE_KEY].view(-1)
        one_hot = torch.nn.functional.one_hot(types, self.num_types).to(self._dtype)
        data[AtomicDataDict.NODE_ATTRS_KEY] = one_hot
        data[AtomicDataDict.NODE_FEATURES_KEY] = self.node_embedding(one_hot)
        return data


@compile_mode("script")
class MACEEdgeEmbedding(GraphModuleMixin, torch.nn.Module):
    """Spherical harmonics and radial functions of every edge.

    Vectors and lengths are found in float64 and rounded once to the model's dtype.

    Args:
        spherical_harmonics: e3nn's, as MACE made them.
        radial_embedding: mace-torch's ``RadialEmbeddingBlock``.
        atomic_numbers: [num_types], for transforms of r that depend on the elements.
        apply_cutoff: whether the radial functions hold the cutoff; otherwise it multiplies the
            convolution's weights.
        irreps_in: fields so far.
    """

    def __init__(
        self,
        spherical_harmonics: torch.nn.Module,
        radial_embedding: torch.nn.Module,
        *,
        atomic_numbers: torch.Tensor,
        apply_cutoff: bool,
        irreps_in: dict,
    ):
        super().__init__()
        self.spherical_harmonics = spherical_harmonics
        self.radial_embedding = radial_embedding
        self.register_buffer("atomic_numbers", atomic_numbers)
        self.apply_cutoff = apply_cutoff
        self._dtype = torch.get_default_dtype()
        irreps_out = {
            AtomicDataDict.EDGE_ATTRS_KEY: spherical_harmonics.irreps_out,
            AtomicDataDict.EDGE_EMBEDDING_KEY: Irreps([(radial_embedding.out_dim, (0, 1))]),
        }
        if not apply_cutoff:
            irreps_out[AtomicDataDict.EDGE_CUTOFF_KEY] = Irreps("0e")
        self._init_irreps(irreps_in=irreps_in, irreps_out=irreps_out)

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Add ``edge_attrs`` [num_edges, (l_max+1)²] and ``edge_embedding``."""
        data = with_edge_vectors_(data, with_lengths=True)
        vectors = data[AtomicDataDict.EDGE_VECTORS_KEY].to(self._dtype).neg()
        lengths = data[AtomicDataDict.EDGE_LENGTH_KEY].view(-1, 1).to(self._dtype)
        data[AtomicDataDict.EDGE_ATTRS_KEY] = self.spherical_harmonics(vectors)
        radial, cutoff = self.radial_embedding(
            lengths,
            data[AtomicDataDict.NODE_ATTRS_KEY],
            data[AtomicDataDict.EDGE_INDEX_KEY].flip(0),
            self.atomic_numbers,
        )
        data[AtomicDataDict.EDGE_EMBEDDING_KEY] = radial
        if cutoff is not None:
            data[AtomicDataDict.EDGE_CUTOFF_KEY] = cutoff
        return data


@compile_mode("script")
class MACELayer(GraphModuleMixin, torch.nn.Module):
    """One message passing step: MACE's interaction, then its product basis.

    Args:
        interaction: one of mace-torch's interaction blocks.
        product: mace-torch's ``EquivariantProductBasisBlock``.
        irreps_in: fields so far.
    """

    def __init__(self, interaction: torch.nn.Module, product: torch.nn.Module, *, irreps_in: dict):
        super().__init__()
        self.interaction = interaction
        self.product = product
        self.apply_cutoff = AtomicDataDict.EDGE_CUTOFF_KEY not in irreps_in
        self._init_irreps(
            irreps_in=irreps_in,
            irreps_out={AtomicDataDict.NODE_FEATURES_KEY: product.linear.irreps_out},
        )

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Replace ``node_features``."""
        node_attrs = data[AtomicDataDict.NODE_ATTRS_KEY]
        cutoff: torch.Tensor | None = None
        if not self.apply_cutoff:
            cutoff = data[AtomicDataDict.EDGE_CUTOFF_KEY]
        messages, self_connection = self.interaction(
            node_attrs=node_attrs,
            node_feats=data[AtomicDataDict.NODE_FEATURES_KEY],
            edge_attrs=data[AtomicDataDict.EDGE_ATTRS_KEY],
            edge_feats=data[AtomicDataDict.EDGE_EMBEDDING_KEY],
            edge_index=data[AtomicDataDict.EDGE_INDEX_KEY].flip(0),
            cutoff=cutoff,
        )
        data[AtomicDataDict.NODE_FEATURES_KEY] = self.product(
            node_feats=messages, sc=self_connection, node_attrs=node_attrs
        )
        return data


@compile_mode("script")
class ScalarFunction(torch.nn.Module):
    """A function of the scalars among equivariant features.

    Args:
        function: [num_atoms, number of 0e scalars] -> [num_atoms, 1], or one that takes the scalars
            at the place of the atom's type.
        irreps_in: irreps of the features; their scalars must stand together.
        per_type: whether it is one of the latter.
    """

    def __init__(self, function: torch.nn.Module, *, irreps_in: Irreps, per_type: bool):
        super().__init__()
        self.function = function
        self.start, self.length = scalar_range(irreps_in)
        self.per_type = per_type

    def forward(self, features: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """Evaluate [num_atoms, 1].

        Args:
            features: [num_atoms, irreps_in.dim].
            one_hot: [num_atoms, num_types], types.
        """
        scalars = features.narrow(-1, self.start, self.length)
        return self.function(by_type(scalars, one_hot) if self.per_type else scalars)


def scalar_range(irreps: Irreps) -> tuple[int, int]:
    """First column and number of the even scalars of ``irreps``, which must stand together."""
    columns = [
        column
        for part, (_, ir) in zip(irreps.slices(), irreps, strict=True)
        if ir == (0, 1)
        for column in range(part.start, part.stop)
    ]
    if not columns or columns[-1] - columns[0] + 1 != len(columns):
        raise ValueError(f"hidden_irreps need their 0e scalars side by side, found {irreps}")
    return columns[0], len(columns)


@compile_mode("script")
class MACEReadout(GraphModuleMixin, torch.nn.Module):
    """One layer's share of the atomic energy: any of upstream's block and a function beside it.

    Args:
        block: mace-torch's readout block, or ``None``.
        beside: function of the scalars, or ``None``.
        irreps_in: fields so far; an atomic energy that is already there is added to.
    """

    def __init__(
        self,
        block: torch.nn.Module | None,
        beside: ScalarFunction | None,
        *,
        irreps_in: dict,
    ):
        super().__init__()
        self.block = block
        self.beside = beside
        self.accumulate = AtomicDataDict.PER_ATOM_ENERGY_KEY in irreps_in
        self._init_irreps(
            irreps_in=irreps_in, irreps_out={AtomicDataDict.PER_ATOM_ENERGY_KEY: Irreps("0e")}
        )

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Set ``atomic_energy`` [num_atoms, 1], or add to it."""
        features = data[AtomicDataDict.NODE_FEATURES_KEY]
        energy = torch.zeros(1, dtype=features.dtype, device=features.device)
        if self.block is not None:
            energy = energy + self.block(features)
        if self.beside is not None:
            energy = energy + self.beside(features, data[AtomicDataDict.NODE_ATTRS_KEY])
        if self.accumulate:
            energy = energy + data[AtomicDataDict.PER_ATOM_ENERGY_KEY]
        data[AtomicDataDict.PER_ATOM_ENERGY_KEY] = energy
        return data


@compile_mode("script")
class MACEPairRepulsion(GraphModuleMixin, torch.nn.Module):
    """mace-torch's Ziegler-Biersack-Littmark repulsion, added to the atomic energy.

    Args:
        repulsion: mace-torch's ``ZBLBasis``, made scriptable.
        atomic_numbers: [num_types].
        irreps_in: fields so far.
    """

    def __init__(
        self, repulsion: torch.nn.Module, *, atomic_numbers: torch.Tensor, irreps_in: dict
    ):
        super().__init__()
        self.repulsion = repulsion
        self.register_buffer("atomic_numbers", atomic_numbers)
        self._dtype = torch.get_default_dtype()
        self._init_irreps(irreps_in=irreps_in)

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Add to ``atomic_energy``."""
        energy = self.repulsion(
            data[AtomicDataDict.EDGE_LENGTH_KEY].view(-1, 1).to(self._dtype),
            data[AtomicDataDict.NODE_ATTRS_KEY],
            data[AtomicDataDict.EDGE_INDEX_KEY].flip(0),
            self.atomic_numbers,
        )
        key = AtomicDataDict.PER_ATOM_ENERGY_KEY
        data[key] = data[key] + energy.view(-1, 1)
        return data
