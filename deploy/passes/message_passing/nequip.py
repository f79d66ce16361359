"""NequIP on fused operators: radial networks as tables, one convolution operator per layer.

Upstream's layer is a linear map, a tensor product with weights per edge summed over neighbours, a
second linear map, a self-connection that depends on the type, and a gate. Here, with features in
blocks per irreps, the middle is one operator and every linear map one matrix product per irreps;
the second linear map gives scalars, gates and gated features apart, so that the gate needs no
copies.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from e3nn import o3
from nequip.data import AtomicDataDict
from nequip.nn import ConvNetLayer, GraphModel

from kan_md.ops.modules import BlockLinear, can_take_present
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.message_passing.convolutions import (
    TABLE_BOUND,
    FusedConvolution,
    can_fuse,
    fuse_convolution,
)
from kan_md_deploy.passes.message_passing.gates import block_gate, gate_columns, is_known_gate
from kan_md_deploy.passes.message_passing.layers import (
    LayerOnOperators,
    LayersOnOperators,
    NoUpdate,
    Skip,
    Up,
    exchange_behind,
    typed_skip,
)
from kan_md_deploy.passes.message_passing.linear_maps import (
    channel_slices,
    in_float64,
    linear_matrix,
    matrices_by_row,
    plain_irreps,
)
from kan_md_deploy.passes.module_sequence import with_lengths

_EDGES = ("spharm", "edge_norm", "bessel_encode", "factor")


def is_understood(model: GraphModel) -> bool:
    """Whether the model is a NequIP in upstream's layout with gates, without residuals."""
    parts = dict(model.model.func.named_children())
    layers = [part for part in parts.values() if isinstance(part, ConvNetLayer)]
    return (
        bool(layers)
        and not parts["type_embed"].do_categorical_graph_field_embed
        and list(parts)[1:5] == list(_EDGES)
        and all(
            not layer.resnet
            and is_known_gate(layer.equivariant_nonlin)
            and layer.conv.avg_num_neighbors_norm.norm_shortcut
            and can_fuse(layer.conv.tp_scatter.tp)
            for layer in layers
        )
    )


def on_operators(
    model: GraphModel, context: PassContext
) -> tuple[dict[str, torch.nn.Module], float]:
    """One :class:`NequIPOnOperators` in the place of edge embeddings and layers."""
    rest = OrderedDict(model.model.func.named_children())
    embedding = rest.pop("type_embed")
    edges = [rest.pop(name) for name in _EDGES]
    layers = [rest.pop(n) for n, p in list(rest.items()) if isinstance(p, ConvNetLayer)]
    attributes = in_float64(embedding.embed_module)(torch.arange(context.num_types))
    fused = NequIPOnOperators(edges, layers, context, attributes=attributes)
    atoms = with_lengths(rest, edges[_EDGES.index("edge_norm")])
    return {"type_embed": embedding, "nequip": fused, **atoms}, fused.error


class NequIPOnOperators(torch.nn.Module):
    """All convolution layers of a NequIP.

    Args:
        edges: upstream's modules on edges, in order.
        layers: upstream's layers; the last one gives scalars only.
        context: of the pass.
        attributes: [num_types, features] float64, embedding of the types.
    """

    def __init__(
        self,
        edges: list[torch.nn.Module],
        layers: list[ConvNetLayer],
        context: PassContext,
        *,
        attributes: torch.Tensor,
    ):
        super().__init__()
        read = [
            _read_layer(layer, edges[1:], attributes, context, is_first=not number)
            for number, layer in enumerate(layers)
        ]
        self.layers = LayersOnOperators(
            [layer for layer, _ in read], static_shapes=context.static_shapes
        )
        self.is_chosen = any(layer.is_chosen for layer, _ in read)
        self.error = max(error for _, error in read)
        self._types = AtomicDataDict.ATOM_TYPE_KEY
        self._features = AtomicDataDict.NODE_FEATURES_KEY

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Replace ``node_features`` by those of the last layer, scalars [num_atoms, channels].

        Ghosts' features are without meaning.
        """
        num_atoms = data[self._types].size(0)
        found = self.layers(data, data[self._features].reshape(-1))
        (features,) = found[-1]
        missing = num_atoms - features.size(0)
        data[self._features] = torch.nn.functional.pad(features, [0, 0, 0, missing])
        return data

    def choose(self, types: list[int]) -> float:
        """See :class:`~kan_md_deploy.chosen_types.SequenceOfChosen`."""
        return self.layers.choose(types)


def _read_layer(
    layer: ConvNetLayer,
    lengths: list[torch.nn.Module],
    attributes: torch.Tensor,
    context: PassContext,
    *,
    is_first: bool,
) -> tuple[LayerOnOperators, float]:
    """One convolution with its gate on operators, and the largest error of a table's slope.

    Args:
        layer: upstream's layer.
        lengths: upstream's modules that embed edge lengths.
        attributes: [num_types, features] float64, embedding of the types.
        context: of the pass.
        is_first: whether its input is known of all atoms.
    """
    conv, gate = layer.conv, layer.equivariant_nonlin
    dtype = conv.tp_scatter.model_dtype
    functions = _FunctionsOfPair(conv.edge_mlp, lengths)
    fused = fuse_convolution(
        conv.tp_scatter.tp,
        functions,
        functions.cutoffs(len(attributes)),
        num_types=len(attributes),
        reversed_edges=False,
        bound=min(context.bound, TABLE_BOUND[dtype]),
        dtype=dtype,
        can_choose=not context.static_shapes,
    )
    columns = gate_columns(gate)
    up = _up(conv, dtype=dtype)
    operators = LayerOnOperators(
        up,
        exchange_behind(up, is_first=is_first),
        fused,
        _down(conv, fused, columns, dtype=dtype),
        update=NoUpdate(),
        skip=None if conv.sc is None else _skip(conv, attributes, columns, context, dtype=dtype),
        after=block_gate(gate),
    )
    return operators, fused.error


def _up(conv: torch.nn.Module, *, dtype: torch.dtype) -> Up:
    """Upstream's first linear map, over the average number of neighbours."""
    first = in_float64(conv.linear_1)
    irreps_in = o3.Irreps(first.irreps_in)
    norm = conv.avg_num_neighbors_norm.norm_const.double().item()
    matrix = norm * linear_matrix(first, irreps_in, o3.Irreps(first.irreps_out))
    maps = [(i, matrix[part, part]) for i, part in enumerate(channel_slices(irreps_in))]
    return Up(BlockLinear(plain_irreps(irreps_in), maps, dtype=dtype))


def _down(
    conv: torch.nn.Module,
    fused: FusedConvolution,
    columns: list[tuple[o3.Irrep, torch.Tensor]],
    *,
    dtype: torch.dtype,
) -> BlockLinear:
    """Upstream's second linear map, to the columns that the gate wants."""
    second = in_float64(conv.linear_2)
    after = linear_matrix(second, o3.Irreps(second.irreps_in), o3.Irreps(second.irreps_out))
    kinds = [irrep for _, irrep in fused.irreps]
    maps = [
        (kinds.index(irrep), after[fused.upstream_rows[kinds.index(irrep)]][:, wanted])
        for irrep, wanted in columns
    ]
    return BlockLinear(plain_irreps(fused.irreps), maps, dtype=dtype)


def _skip(
    conv: torch.nn.Module,
    attributes: torch.Tensor,
    columns: list[tuple[o3.Irrep, torch.Tensor]],
    context: PassContext,
    *,
    dtype: torch.dtype,
) -> Skip:
    """Upstream's self-connection, to the columns that the gate wants.

    Of more types than attributes, the maps are kept by attribute.
    """
    exact = in_float64(conv.sc)
    irreps_in = o3.Irreps(exact.irreps_in1)
    num_types, num_attributes = attributes.shape
    by_attribute = num_types > num_attributes and can_take_present(
        num_types, static_shapes=context.static_shapes
    )
    rows = torch.eye(num_attributes, dtype=torch.float64) if by_attribute else attributes
    matrices = matrices_by_row(exact, rows)
    kinds, parts = [ir for _, ir in irreps_in], channel_slices(irreps_in)
    maps = {
        output: (kinds.index(ir), matrices[:, parts[kinds.index(ir)]][:, :, wanted])
        for output, (ir, wanted) in enumerate(columns)
        if ir in kinds
    }
    return typed_skip(
        plain_irreps(irreps_in),
        maps,
        dtype=dtype,
        static_shapes=context.static_shapes,
        attributes=attributes if by_attribute else None,
    )


class _FunctionsOfPair(torch.nn.Module):
    """Weights of the tensor product by distance and types, float64.

    Args:
        network: of the embedded length.
        lengths: upstream's modules that embed edge lengths; the first one divides by the cutoff.
    """

    def __init__(self, network: torch.nn.Module, lengths: list[torch.nn.Module]):
        super().__init__()
        modules = [in_float64(module) for module in (*lengths, network)]
        for module in modules:
            if hasattr(module, "_output_dtype"):
                module._output_dtype = torch.float64
        *embedding, self.network = modules
        self.embedding = torch.nn.ModuleList(embedding)
        self._vectors = AtomicDataDict.EDGE_VECTORS_KEY
        self._length = AtomicDataDict.EDGE_LENGTH_KEY
        self._types = AtomicDataDict.EDGE_TYPE_KEY
        self._field = AtomicDataDict.EDGE_EMBEDDING_KEY

    def cutoffs(self, num_types: int) -> torch.Tensor:
        """[num_types, num_types] float64, Å, or [1, 1] where they do not depend on the pair."""
        norm = self.embedding[0]
        count = num_types if norm._per_edge_type else 1
        return norm._rmax_recip.double().reciprocal().view(count, count)

    def forward(self, lengths: torch.Tensor, centre: int, neighbour: int) -> torch.Tensor:
        """[n, num_functions] for lengths [n], Å."""
        data: dict[str, torch.Tensor] = {
            self._vectors: torch.zeros(lengths.size(0), 3, dtype=lengths.dtype),
            self._length: lengths,
            self._types: torch.tensor([[centre], [neighbour]]).repeat(1, lengths.size(0)),
        }
        for module in self.embedding:
            data = module(data)
        return self.network(data[self._field])
