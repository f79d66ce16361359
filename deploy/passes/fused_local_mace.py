"""A MACE with one interaction becomes one call of the project's C++ operator.

Such a model is strictly local: an atomic cluster expansion whose radial functions and whose
embedding function are learned. The operator computes one centre after the other, forward and
reverse (kan_md/ops/local_mace.cpp); :mod:`kan_md_deploy.passes.message_passing.local_mace` reads
the model. What it does not know is left to :mod:`kan_md_deploy.passes.fused_message_passing`.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from e3nn import o3
from nequip.data import AtomicDataDict
from nequip.nn import GraphModel, with_edge_vectors_

from kan_md.backbones.mace_modules import (
    MACEEdgeEmbedding,
    MACELayer,
    MACENodeEmbedding,
    MACEReadout,
)
from kan_md.ops import is_built
from kan_md.ops.tables import BoundNotReachedError
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.message_passing import mace
from kan_md_deploy.passes.message_passing.linear_maps import in_float64, linear_matrix
from kan_md_deploy.passes.message_passing.local_mace import (
    EmbeddingFunction,
    expansion_functions,
    has_one_channel_per_degree,
    offsets_of_types,
    read_embedding,
    scalar_channels,
)
from kan_md_deploy.passes.message_passing.symmetric_contraction import polynomial_of_scalars
from kan_md_deploy.passes.module_sequence import ModuleSequence
from kan_md_deploy.passes.operator_weights import ModelOnOperator, OperatorWeights

_MOST_L = 4
_MOST_TYPES = 8
"""Tables are made for every pair of types; with more of them they take long and fill the cache."""
_PARTS = (MACENodeEmbedding, MACEEdgeEmbedding, MACELayer, MACEReadout)


class LocalMACEOnOperator(ModelOnOperator):
    """``kan_md::local_mace`` with its constants.

    Args:
        operator: weights and numbers.
        node_embedding: of the types, where a later module reads it and edge lengths.
    """

    def __init__(self, operator: OperatorWeights, node_embedding: torch.nn.Module | None):
        super().__init__(operator)
        self.node_embedding = node_embedding

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Set ``atomic_energy`` [num_atoms, 1], before scale and shift."""
        if self.node_embedding is not None:
            data = with_edge_vectors_(data, with_lengths=True)
            data = self.node_embedding(data)
        energy, _ = torch.ops.kan_md.local_mace(
            data[self._vectors],
            data[self._index],
            data[self._types].view(-1),
            self.constants(),
            self.shape,
        )
        data[self._energy] = energy.unsqueeze(1)
        return data


class FusedLocalMACE:
    """The pass; see the module."""

    name = "fused_local_mace"
    kinds = ("potential",)
    needs_operators = True

    def applies_to(self, model: GraphModel, context: PassContext) -> bool:
        """Whether the model is a MACE of one plain interaction whose readout is known."""
        possible = context.bound > 0 and is_built() and context.num_types <= _MOST_TYPES
        if not (possible and mace.is_understood(model)):
            return False
        parts = _parts(model)
        layers = [part for part in parts.values() if isinstance(part, MACELayer)]
        readouts = [part for part in parts.values() if isinstance(part, MACEReadout)]
        if len(layers) != 1 or len(readouts) != 1:
            return False
        interaction, irreps = layers[0].interaction, _features(layers[0])
        embedding = read_embedding(readouts[0], irreps)
        return (
            embedding is not None
            and not hasattr(interaction, "density_fn")
            and has_one_channel_per_degree(o3.Irreps(interaction.linear.irreps_out))
            and o3.Irreps(interaction.linear.irreps_out).lmax <= _MOST_L
        )

    def apply(self, model: GraphModel, context: PassContext) -> dict:
        """Replace everything up to the readout's energy by one operator."""
        parts = _parts(model)
        rest = OrderedDict(
            (name, part) for name, part in model.model.func.named_children() if name not in parts
        )
        try:
            packed = _Packed(parts, context)
        except BoundNotReachedError as reason:
            return {"bound": 0.0, "skipped": str(reason)}
        embedding = parts["node_embedding"] if "pair_repulsion" in rest else None
        fused = LocalMACEOnOperator(packed, embedding)
        model.model.func = ModuleSequence({"mace": fused, **rest})
        return {
            "bound": packed.error,
            "slope_bound": packed.slope_error,
            "intervals": packed.num_intervals,
            "operator": "kan_md::local_mace",
        }


class _Packed(OperatorWeights):
    """Weights and shape of the operator for a model, in the order of local_mace_plan.cpp."""

    def __init__(self, parts: dict[str, torch.nn.Module], context: PassContext):
        edges: MACEEdgeEmbedding = parts["edge_embedding"]
        super().__init__(edges._dtype, bound=context.bound)
        (layer,) = (part for part in parts.values() if isinstance(part, MACELayer))
        (readout,) = (part for part in parts.values() if isinstance(part, MACEReadout))
        one_hot = torch.eye(context.num_types, dtype=torch.float64)
        types = in_float64(parts["node_embedding"].node_embedding)(one_hot)
        irreps = _features(layer)
        embedding = read_embedding(readout, irreps)
        assert embedding is not None, "checked before"
        expansion = o3.Irreps(layer.interaction.linear.irreps_out)

        channels, densities = expansion[0].mul, embedding.first.size(1)
        self.shape = [expansion.lmax, self.padded(channels), self.padded(densities)]
        widths = [*(matrix.size(1) for matrix in embedding.hidden)]
        if embedding.kans and not embedding.has_tables:
            widths = [layer.out_features for layer in embedding.kans[0]]
        self.shape += [embedding.kind, len(widths), *map(self.padded, widths)]

        functions = expansion_functions(layer, edges, types)
        cutoff = float(edges.radial_embedding.cutoff_fn.r_max)
        table = self.tabulate(lambda r, pair: functions[pair](r), [cutoff] * len(functions))
        self.num_intervals = table.powers.size(1)
        self.add_table(table, [channels] * len(expansion))
        self.weights += polynomial_of_scalars(
            layer.product, num_types=context.num_types, dtype=self.dtype
        )
        linear = in_float64(layer.product.linear)
        matrix = linear_matrix(linear, o3.Irreps(linear.irreps_in), o3.Irreps(linear.irreps_out))
        scalars = scalar_channels(o3.Irreps(linear.irreps_in))
        matrix = matrix[scalars, scalar_channels(irreps)] @ embedding.first
        self.add_product(matrix)
        offsets = offsets_of_types(layer, types, irreps) @ embedding.first
        self.weights.append(self.pad(offsets, 1))
        self._add_embedding(embedding)

    def _add_embedding(self, embedding: EmbeddingFunction) -> None:
        for layers in embedding.kans:
            for layer in layers:
                if embedding.has_tables:
                    self.add_pieces(layer)
                else:
                    self.add_kan_layer(layer)
        for matrix in embedding.hidden:
            self.add_product(matrix)
        if embedding.vector is not None:
            self.weights.append(self.pad(embedding.vector, 0))


def _parts(model: GraphModel) -> dict[str, torch.nn.Module]:
    """MACE's own modules by name, in order."""
    return {n: part for n, part in model.model.func.named_children() if isinstance(part, _PARTS)}


def _features(layer: MACELayer) -> o3.Irreps:
    """What the only layer gives to its readout."""
    return o3.Irreps(layer.product.linear.irreps_out)
