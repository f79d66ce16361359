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
from e3nn.nn import Gate
from nequip.data import AtomicDataDict
from nequip.nn import ConvNetLayer, GraphModel

from kan_md.ops.library import is_built
from kan_md.ops.modules import BlockLinear, TypedLinear, as_blocks
from kan_md.ops.tables import BoundNotReachedError, RadialFunction
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.chain import Chain, with_lengths
from kan_md_deploy.passes.convolutions import TABLE_BOUND, can_fuse, fuse_convolution
from kan_md_deploy.passes.equivariant import (
    channel_slices,
    first_components,
    in_float64,
    linear_matrix,
)
from kan_md_deploy.passes.reach import centres_per_layer, kept_rows, rows_of_first
from kan_md_deploy.wrapper import NUM_LOCAL_KEY

_EDGES = ("spharm", "edge_norm", "bessel_encode", "factor")


class FusedNequIP:
    """The pass; see the module."""

    name = "fused_nequip"
    needs_operators = True

    def applies_to(self, model: GraphModel, context: PassContext) -> bool:
        """Whether the model is a NequIP in upstream's layout with gates, without residuals.

        Tables approximate: a bound of zero leaves the pass out.
        """
        parts = dict(model.model.func.named_children())
        layers = [part for part in parts.values() if isinstance(part, ConvNetLayer)]
        return (
            context.bound > 0
            and is_built()
            and bool(layers)
            and not parts["type_embed"].do_categorical_graph_field_embed
            and list(parts)[1:5] == list(_EDGES)
            and all(
                not layer.resnet
                and isinstance(layer.equivariant_nonlin, Gate)
                and all(_activation(act) for act in _activations(layer.equivariant_nonlin))
                and layer.conv.avg_num_neighbors_norm.norm_shortcut
                and can_fuse(layer.conv.tp_scatter.tp)
                for layer in layers
            )
        )

    def apply(self, model: GraphModel, context: PassContext) -> dict:
        """Replace edge embeddings and layers by one :class:`NequIPOnOperators`."""
        rest = OrderedDict(model.model.func.named_children())
        embedding = rest.pop("type_embed")
        edges = [rest.pop(name) for name in _EDGES]
        layers = [rest.pop(n) for n, p in list(rest.items()) if isinstance(p, ConvNetLayer)]
        attributes = in_float64(embedding.embed_module)(torch.arange(context.num_types))
        try:
            fused = NequIPOnOperators(
                edges,
                layers,
                rows=kept_rows(static_shapes=context.static_shapes),
                attributes=attributes,
                bound=context.bound,
            )
        except BoundNotReachedError as reason:
            return {"bound": 0.0, "skipped": str(reason)}
        atoms = with_lengths(rest, edges[_EDGES.index("edge_norm")])
        model.model.func = Chain({"type_embed": embedding, "nequip": fused, **atoms})
        return {"bound": fused.error, "operator": "kan_md::convolution"}


class NequIPOnOperators(torch.nn.Module):
    """All convolution layers of a NequIP.

    Args:
        edges: upstream's modules on edges, in order.
        layers: upstream's layers; the last one gives scalars only.
        rows: which rows a layer keeps, see :mod:`kan_md_deploy.passes.reach`.
        attributes: [num_types, features] float64, embedding of the types.
        bound: of the radial tables.
    """

    def __init__(
        self,
        edges: list[torch.nn.Module],
        layers: list[ConvNetLayer],
        *,
        rows: torch.nn.Module,
        attributes: torch.Tensor,
        bound: float,
    ):
        super().__init__()
        fused = [
            LayerOnOperators(layer, edges[1:], attributes=attributes, bound=bound)
            for layer in layers
        ]
        self.layers = torch.nn.ModuleList(fused)
        self.rows = rows
        self.error = max(layer.error for layer in fused)
        self._vectors = AtomicDataDict.EDGE_VECTORS_KEY
        self._index = AtomicDataDict.EDGE_INDEX_KEY
        self._types = AtomicDataDict.ATOM_TYPE_KEY
        self._features = AtomicDataDict.NODE_FEATURES_KEY
        self._num_local = NUM_LOCAL_KEY

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Replace ``node_features`` by those of the last layer, scalars [num_atoms, channels].

        Ghosts' features are without meaning.
        """
        types, index = data[self._types].view(-1), data[self._index]
        num_atoms = types.size(0)
        x = data[self._features].reshape(-1)
        centres = centres_per_layer(index, data[self._num_local], len(self.layers))
        for layer in self.layers:
            num_centres = centres.pop(0)
            num_kept = self.rows(num_centres, types.size(0))
            x = layer(data[self._vectors], x, index, types, num_centres, num_kept)
            types = types[:num_kept]
        features = x.view(types.size(0), -1)
        missing = num_atoms - types.size(0)
        data[self._features] = torch.nn.functional.pad(features, [0, 0, 0, missing])
        return data


class LayerOnOperators(torch.nn.Module):
    """One convolution with its gate.

    Args:
        layer: upstream's layer.
        lengths: upstream's modules that embed edge lengths.
        attributes: [num_types, features] float64, embedding of the types.
        bound: of the radial tables.
    """

    def __init__(
        self,
        layer: ConvNetLayer,
        lengths: list[torch.nn.Module],
        *,
        attributes: torch.Tensor,
        bound: float,
    ):
        super().__init__()
        conv, gate = layer.conv, layer.equivariant_nonlin
        dtype = conv.tp_scatter.model_dtype
        functions, cutoffs = _radial_functions(conv.edge_mlp, lengths, len(attributes))
        fused = fuse_convolution(
            conv.tp_scatter.tp,
            functions,
            cutoffs,
            reversed_edges=False,
            bound=min(bound, TABLE_BOUND[dtype]),
            dtype=dtype,
        )
        self.error = fused.error
        self.convolution = fused.module
        first = in_float64(conv.linear_1)
        irreps_in = o3.Irreps(first.irreps_in)
        norm = conv.avg_num_neighbors_norm.norm_const.double().item()
        matrix = norm * linear_matrix(first, irreps_in, o3.Irreps(first.irreps_out))
        rows = channel_slices(irreps_in)
        plain = [(mul, ir.l) for mul, ir in irreps_in]
        self.up = BlockLinear(
            plain, [(i, matrix[part, part]) for i, part in enumerate(rows)], dtype=dtype
        )

        columns = gate_columns(gate)
        second = in_float64(conv.linear_2)
        irreps_mid = o3.Irreps(second.irreps_in)
        after = linear_matrix(second, irreps_mid, o3.Irreps(second.irreps_out))
        kinds = [irrep for _, irrep in fused.irreps]
        maps = [
            (kinds.index(irrep), after[fused.upstream_rows[kinds.index(irrep)]][:, wanted])
            for irrep, wanted in columns
        ]
        self.down = BlockLinear([(mul, ir.l) for mul, ir in fused.irreps], maps, dtype=dtype)

        self.skip = None
        self.skip_outputs: list[int] = []
        if conv.sc is not None:
            skips = _skip_maps(conv.sc, attributes, columns)
            self.skip_outputs = list(skips)
            self.skip = TypedLinear(plain, list(skips.values()), dtype=dtype)
        self.gate = BlockGate(gate) if len(gate.irreps_gated) else ScalarGate(gate)

    def forward(
        self,
        vectors: torch.Tensor,
        x: torch.Tensor,
        index: torch.Tensor,
        types: torch.Tensor,
        num_centres: torch.Tensor,
        num_kept: int,
    ) -> torch.Tensor:
        """Blocked features -> blocked features of the first ``num_kept`` atoms.

        Those beyond the first ``num_centres`` [1] of them are without meaning.
        """
        num_atoms = types.size(0)
        neighbours = as_blocks(self.up(x, num_atoms))
        messages = self.convolution(vectors, neighbours, index, types, num_centres)
        messages = rows_of_first(messages, self.down.sizes, num_atoms, num_kept)
        out = self.down(messages, num_kept)
        if self.skip is not None:
            x = rows_of_first(x, self.up.sizes, num_atoms, num_kept)
            pieces = self.skip(x, types[:num_kept], num_kept)
            for number, output in enumerate(self.skip_outputs):
                out[output] = out[output] + pieces[number]
        return as_blocks(self.gate(out, num_kept))


class BlockGate(torch.nn.Module):
    """Upstream's gate on blocks: scalars activated, the rest multiplied by activated gates.

    Args:
        gate: e3nn's.
    """

    def __init__(self, gate: Gate):
        super().__init__()
        self.num_scalars = len(gate.irreps_scalars)
        self.gated_rows = [ir.dim for _, ir in gate.irreps_gated]
        self.gated_channels = [mul for mul, _ in gate.irreps_gated]
        self.activations = torch.nn.ModuleList(
            _Activation(*_activation(act)) for act in _activations(gate)
        )

    def forward(self, pieces: list[torch.Tensor], num_atoms: int) -> list[torch.Tensor]:
        """Scalars, gates (all in one piece) and gated blocks -> blocks."""
        out: list[torch.Tensor] = []
        gates: list[torch.Tensor] = []
        for number, activation in enumerate(self.activations):
            if number < self.num_scalars:
                out.append(activation(pieces[number]))
            else:
                gates = torch.split(activation(pieces[number]), self.gated_channels, dim=1)
        first = len(self.activations)
        for number, rows in enumerate(self.gated_rows):
            block = pieces[first + number].view(num_atoms, rows, self.gated_channels[number])
            out.append(block * gates[number].unsqueeze(1))
        return out


class ScalarGate(torch.nn.Module):
    """Upstream's gate where there are scalars only.

    Args:
        gate: e3nn's.
    """

    def __init__(self, gate: Gate):
        super().__init__()
        self.activations = torch.nn.ModuleList(
            _Activation(*_activation(act)) for act in _activations(gate)
        )

    def forward(self, pieces: list[torch.Tensor], num_atoms: int) -> list[torch.Tensor]:
        """Scalars -> scalars, irreps by irreps."""
        out: list[torch.Tensor] = []
        for number, activation in enumerate(self.activations):
            out.append(activation(pieces[number]))
        return out


class _Activation(torch.nn.Module):
    """A nonlinearity times e3nn's constant for unit variance."""

    def __init__(self, name: str, factor: float):
        super().__init__()
        self.name = name
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.name == "silu":
            return torch.nn.functional.silu(x) * self.factor
        return torch.tanh(x) * self.factor


def _activations(gate: Gate) -> list[torch.nn.Module]:
    """Of each irreps of scalars, then the one of all gates, where there are any."""
    gates = list(gate.act_gates.acts) if len(gate.irreps_gates) else []
    return [*gate.act_scalars.acts, *gates[:1]]


def _activation(act: torch.nn.Module) -> tuple[str, float] | None:
    known = {torch.nn.functional.silu: "silu", torch.tanh: "tanh"}
    if getattr(act, "f", None) not in known:
        return None
    one = torch.ones(1, dtype=torch.float64)
    return known[act.f], float(act(one) / act.f(one))


def gate_columns(gate: Gate) -> list[tuple[o3.Irrep, torch.Tensor]]:
    """Channels of the gate's input that are scalars, gates and gated, irreps by irreps.

    Returns:
        (irrep, channels) of each irreps of scalars, of all gates together, of each gated irreps.
    """
    irreps_in = gate.irreps_in
    channel_of = {
        int(place): channel for channel, place in enumerate(first_components(irreps_in).argmax(1))
    }
    places = torch.arange(irreps_in.dim, dtype=torch.float64).unsqueeze(0)
    scalars, gates, gated = (part.squeeze(0) for part in gate.sc(places))

    def columns(irreps: o3.Irreps, part: torch.Tensor) -> list[tuple[o3.Irrep, torch.Tensor]]:
        found = []
        for block, (_, ir) in zip(irreps.slices(), irreps, strict=True):
            chosen = part[block][:: ir.dim].tolist()
            found.append((ir, torch.tensor([channel_of[int(place)] for place in chosen])))
        return found

    all_gates = columns(gate.irreps_gates, gates)
    joined = [(all_gates[0][0], torch.cat([c for _, c in all_gates]))] if all_gates else []
    return [
        *columns(gate.irreps_scalars, scalars),
        *joined,
        *columns(gate.irreps_gated, gated),
    ]


def _skip_maps(
    product: torch.nn.Module,
    attributes: torch.Tensor,
    columns: list[tuple[o3.Irrep, torch.Tensor]],
) -> dict[int, tuple[int, torch.Tensor]]:
    """(input, weight [num_types, in, out]) of each output that the self-connection feeds."""
    exact = in_float64(product)
    irreps_in, irreps_out = o3.Irreps(exact.irreps_in1), o3.Irreps(exact.irreps_out)
    matrices = torch.stack(
        [
            linear_matrix(
                lambda rows, row=row: exact(rows, row.expand(len(rows), -1)), irreps_in, irreps_out
            )
            for row in attributes
        ]
    )
    kinds, parts = [ir for _, ir in irreps_in], channel_slices(irreps_in)
    return {
        output: (kinds.index(ir), matrices[:, parts[kinds.index(ir)]][:, :, wanted])
        for output, (ir, wanted) in enumerate(columns)
        if ir in kinds
    }


def _radial_functions(
    network: torch.nn.Module, lengths: list[torch.nn.Module], num_types: int
) -> tuple[list[RadialFunction], list[float]]:
    """Weights of the tensor product by distance and cutoffs, for each pair of types.

    One function serves all pairs unless cutoffs depend on the pair.
    """
    modules = [in_float64(module) for module in (*lengths, network)]
    for module in modules:
        if hasattr(module, "_output_dtype"):
            module._output_dtype = torch.float64
    norm, *embedding, network = modules
    cutoffs = norm._rmax_recip.double().reciprocal().view(-1).tolist()
    count = num_types if norm._per_edge_type else 1

    def of_pair(centre: int, neighbour: int) -> RadialFunction:
        def function(r: torch.Tensor) -> torch.Tensor:
            pair = torch.tensor([[centre], [neighbour]]).expand(-1, len(r))
            data = {
                AtomicDataDict.EDGE_VECTORS_KEY: torch.zeros(len(r), 3, dtype=r.dtype),
                AtomicDataDict.EDGE_LENGTH_KEY: r,
                AtomicDataDict.EDGE_TYPE_KEY: pair,
            }
            for module in (norm, *embedding):
                data = module(data)
            return network(data[AtomicDataDict.EDGE_EMBEDDING_KEY])

        return function

    pairs = [(centre, other) for centre in range(count) for other in range(count)]
    return [of_pair(*pair) for pair in pairs], cutoffs
