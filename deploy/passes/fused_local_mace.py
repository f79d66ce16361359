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
    has_one_channel_per_degree,
    offsets_of_types,
    read_embedding,
    read_expansion,
    scalar_channels,
)
from kan_md_deploy.passes.message_passing.symmetric_contraction import polynomial_of_scalars
from kan_md_deploy.passes.module_sequence import ModuleSequence
from kan_md_deploy.passes.operator_weights import ModelOnOperator, OperatorWeights
from kan_md_deploy.passes.tables.size import MOST_IN_FILE

_MOST_L = 4
_MOST_PAIRS = MOST_IN_FILE
"""Beyond, tables of pairs of types no longer fit a cache: one table serves all of them."""
_HAS_DENSITY, _IS_FACTORED = 8, 16  # beside an embedding in local_mace_plan.cpp
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
        """Whether the model is a MACE of one interaction; :meth:`apply` looks at its parts."""
        if not (context.bound > 0 and is_built()):
            return False
        return sum(isinstance(part, MACELayer) for part in _parts(model).values()) == 1

    def apply(self, model: GraphModel, context: PassContext) -> dict:
        """Replace everything up to the readout's energy by one operator."""
        parts = _parts(model)
        unknown = _unknown_part(model, parts) or _too_many_functions(parts, context)
        if unknown is not None:
            return {"bound": 0.0, "skipped": f"its operator does not know {unknown}"}
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
        expansion = read_expansion(layer, edges, types)
        # A transformed distance has functions of its own for every pair.
        factored = context.num_types**2 > _MOST_PAIRS and len(expansion.radial) == 1
        _, degrees, summed, channels = expansion.maps.shape
        densities = embedding.first.size(1)
        self.shape = [degrees - 1, self.padded(channels), self.padded(densities)]
        widths = [*(matrix.size(1) for matrix in embedding.hidden)]
        if embedding.kans and not embedding.has_tables:
            widths = [layer.out_features for layer in embedding.kans[0]]
        has_density = expansion.density is not None
        self.shape.append(embedding.kind + _HAS_DENSITY * has_density + _IS_FACTORED * factored)
        if factored:
            self.shape.append(self.padded(summed))
        self.shape += [len(widths), *map(self.padded, widths)]

        functions = expansion.functions() if factored else expansion.functions_of_pairs()
        cutoff = float(edges.radial_embedding.cutoff_fn.r_max)
        table = self.tabulate(lambda r, pair: functions[pair](r), [cutoff] * len(functions))
        self.num_intervals = table.powers.size(1)
        columns = [summed if factored else channels] * degrees
        self.add_table(table, columns + [1] * has_density)
        if factored:
            self.weights.append(self.pad(expansion.neighbours, 1))
            self.shape.append(len(expansion.maps))
            for matrix in expansion.maps.flatten(0, 1):
                self.add_product(matrix)
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
            self.weights.append(self.pad(embedding.vector, -1))


def _unknown_part(model: GraphModel, parts: dict[str, torch.nn.Module]) -> str | None:
    """What keeps a MACE of one interaction from the operator."""
    (layer,) = (part for part in parts.values() if isinstance(part, MACELayer))
    readouts = [part for part in parts.values() if isinstance(part, MACEReadout)]
    degree = o3.Irreps(parts["edge_embedding"].spherical_harmonics.irreps_out).lmax
    if degree > _MOST_L:
        return f"l_max {degree}, above {_MOST_L}"
    if not mace.is_understood(model):
        kind = type(layer.interaction).__name__
        return f"this interaction or its products ({kind}, correlation up to 3 is known)"
    expansion = o3.Irreps(layer.interaction.linear.irreps_out)
    if not has_one_channel_per_degree(expansion):
        return f"the irreps {expansion}"
    embedding = read_embedding(readouts[0], _features(layer)) if len(readouts) == 1 else None
    return "this readout" if embedding is None else None


def _too_many_functions(parts: dict[str, torch.nn.Module], context: PassContext) -> str | None:
    """Functions of pairs of types that tables in a file are not made for."""
    differ = hasattr(parts["edge_embedding"].radial_embedding, "distance_transform")
    pairs = context.num_types**2
    many = differ and pairs > MOST_IN_FILE and not context.static_shapes
    return f"{pairs:,} pairs of elements whose distances are transformed" if many else None


def _parts(model: GraphModel) -> dict[str, torch.nn.Module]:
    """MACE's own modules by name, in order."""
    return {n: part for n, part in model.model.func.named_children() if isinstance(part, _PARTS)}


def _features(layer: MACELayer) -> o3.Irreps:
    """What the only layer gives to its readout."""
    return o3.Irreps(layer.product.linear.irreps_out)
