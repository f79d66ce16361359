"""MACE on fused operators: tables, one convolution and one polynomial per layer.

Upstream's layer evaluates a radial network and a tensor product per edge and sums over neighbours;
its product basis multiplies dense coupling tensors. Here, with features in blocks per irreps:

    H = W_up x,  M_i = CG Σ_j R(r_ij) Y(r̂_ij) H_j   one operator, R from tables (fused convolution)
    A = W_mid M                                       one matrix product per l
    B_m = Σ_{ijk} P^z_mijk A_i A_j A_k                one operator, see symmetric_contraction
    x' = W_product B + W^z_skip x
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

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
from kan_md.kan.per_type import by_type
from kan_md.ops.chosen_types import PolynomialOfChosen
from kan_md.ops.modules import BlockLinear, PolynomialOfComponents, TypedLinear, as_blocks
from kan_md.ops.tables import RadialFunction
from kan_md.tasks.potential_function import NUM_LOCAL_KEY
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.message_passing.convolutions import (
    TABLE_BOUND,
    FusedConvolution,
    can_fuse,
    fuse_convolution,
)
from kan_md_deploy.passes.message_passing.layers import (
    LayerOnOperators,
    LayersOnOperators,
    NothingAfter,
    Skip,
    TypeFeatures,
    Up,
    exchange_behind,
    typed_skip,
)
from kan_md_deploy.passes.message_passing.linear_maps import (
    blocks_by_irrep,
    channel_slices,
    in_float64,
    linear_matrix,
    matrices_by_row,
    plain_irreps,
)
from kan_md_deploy.passes.message_passing.symmetric_contraction import (
    can_multiply_out,
    polynomial_of,
)

PLAIN = ("RealAgnosticInteractionBlock", "RealAgnosticDensityInteractionBlock")
RESIDUAL = ("RealAgnosticResidualInteractionBlock", "RealAgnosticDensityResidualInteractionBlock")


def is_understood(model: GraphModel) -> bool:
    """Whether the model is our MACE with interactions that are understood."""
    parts = list(model.model.func.children())
    if not isinstance(parts[0], MACENodeEmbedding):
        return False
    layers = [part for part in parts if isinstance(part, MACELayer)]
    return all(
        type(layer.interaction).__name__ in (*PLAIN, *RESIDUAL)
        and can_fuse(layer.interaction.conv_tp)
        and can_multiply_out(layer.product)
        for layer in layers
    )


def on_operators(
    model: GraphModel, context: PassContext
) -> tuple[dict[str, torch.nn.Module], float]:
    """One :class:`MACEOnOperators` in the place of embeddings, layers and readouts."""
    rest = OrderedDict(model.model.func.named_children())
    mace = (MACENodeEmbedding, MACEEdgeEmbedding, MACELayer, MACEReadout)
    parts = {name: rest.pop(name) for name, part in list(rest.items()) if isinstance(part, mace)}
    fused = MACEOnOperators(parts, context, with_fields="pair_repulsion" in rest)
    return {"mace": fused, **rest}, fused.error


class MACEOnOperators(torch.nn.Module):
    """All of MACE up to the sum of the readouts.

    Args:
        parts: the adapter's modules by name, in order.
        context: of the pass.
        with_fields: whether a later module reads one-hot types and edge lengths.
    """

    def __init__(
        self, parts: dict[str, torch.nn.Module], context: PassContext, *, with_fields: bool
    ):
        super().__init__()
        embedding: MACENodeEmbedding = parts["node_embedding"]
        edges: MACEEdgeEmbedding = parts["edge_embedding"]
        one_hot = torch.eye(context.num_types, dtype=torch.float64)
        features = in_float64(embedding.node_embedding)(one_hot)
        self.node_embedding = embedding if with_fields else None
        layers, readouts, errors = [], [], []
        for part in parts.values():
            if isinstance(part, MACELayer):
                first = features if not layers else None
                reader = _LayerReader(part, edges, context, embedding=first)
                layers.append(reader.read())
                errors.append(reader.error)
                readouts.append(None)
                irreps = o3.Irreps(part.product.linear.irreps_out)
            if isinstance(part, MACEReadout):
                readouts[-1] = _Readout(
                    part, irreps, num_types=context.num_types, dtype=edges._dtype
                )
        self.layers = LayersOnOperators(layers, static_shapes=context.static_shapes)
        self.is_chosen = any(layer.is_chosen for layer in layers)
        self.readouts = torch.nn.ModuleList(r or _NoReadout() for r in readouts)
        self.error = max(errors)
        self._types = AtomicDataDict.ATOM_TYPE_KEY
        self._energy = AtomicDataDict.PER_ATOM_ENERGY_KEY
        self._num_local = NUM_LOCAL_KEY

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Set ``atomic_energy`` [num_atoms, 1]; ghosts' are without meaning."""
        if self.node_embedding is not None:
            data = with_edge_vectors_(data, with_lengths=True)
            data = self.node_embedding(data)
        num_atoms = data[self._types].size(0)
        num_last = self.layers.rows(data[self._num_local], num_atoms)
        nothing = torch.zeros(0, device=data[self._types].device)
        found = self.layers(data, nothing)
        energy = torch.zeros(1, 1, device=nothing.device)
        for number, readout in enumerate(self.readouts):
            energy = energy + readout(found[number], data[self._types])[:num_last]
        data[self._energy] = torch.nn.functional.pad(energy, [0, 0, 0, num_atoms - num_last])
        return data

    def choose(self, types: list[int]) -> float:
        """See :class:`~kan_md_deploy.chosen_types.SequenceOfChosen`."""
        return self.layers.choose(types)


class _LayerReader:
    """Reads one interaction with its product basis.

    Args:
        layer: the adapter's layer.
        edges: the adapter's edge embedding.
        context: of the pass.
        embedding: [num_types, channels] float64 features of the types, for the first layer.

    Attributes:
        error: largest error of a table's slope.
    """

    def __init__(
        self,
        layer: MACELayer,
        edges: MACEEdgeEmbedding,
        context: PassContext,
        *,
        embedding: torch.Tensor | None,
    ):
        self.interaction, self.product = layer.interaction, layer.product
        self.edges, self.embedding = edges, embedding
        self.num_types = context.num_types
        self.dtype = edges._dtype
        self.bound = min(context.bound, TABLE_BOUND[self.dtype])
        self.can_choose = not context.static_shapes
        self.error = 0.0

    def read(self) -> LayerOnOperators:
        """The layer on operators."""
        convolution = self._convolution(self.interaction.conv_tp, self.interaction.conv_tp_weights)
        up = self._up()
        return LayerOnOperators(
            up,
            exchange_behind(up, is_first=self.embedding is not None),
            convolution,
            _mid_linear(self.interaction, convolution, dtype=self.dtype),
            update=self._update(),
            skip=self._skip(),
            after=NothingAfter(),
        )

    def _convolution(self, product: o3.TensorProduct, network: torch.nn.Module) -> FusedConvolution:
        functions = FunctionsOfPair(network, self.edges, self.num_types)
        cutoff = float(self.edges.radial_embedding.cutoff_fn.r_max)
        fused = fuse_convolution(
            product,
            functions,
            torch.full((functions.num_types,) * 2, cutoff, dtype=torch.float64),
            num_types=self.num_types,
            reversed_edges=True,
            bound=self.bound,
            dtype=self.dtype,
            can_choose=self.can_choose,
        )
        self.error = max(self.error, fused.error)
        return fused

    def _up(self) -> torch.nn.Module:
        up = in_float64(self.interaction.linear_up)
        if self.embedding is not None:
            return TypeFeatures(up(self.embedding), dtype=self.dtype)
        return Up(_same_irreps(up, up.irreps_in, up.irreps_out, dtype=self.dtype))

    def _update(self) -> torch.nn.Module:
        density = None
        if hasattr(self.interaction, "density_fn"):
            network = _Density(self.interaction.density_fn)
            density = self._convolution(_sum_of_scalars(), network).module
        by_type = None
        if type(self.interaction).__name__ in PLAIN:
            irreps = plain_irreps(self.interaction.irreps_out)
            by_type = TypedLinear(
                irreps,
                list(self._by_type().values()),
                dtype=self.dtype,
                static_shapes=not self.can_choose,
            )
        linear = in_float64(self.product.linear)
        return _ProductBasis(
            [ir.dim for _, ir in o3.Irreps(self.interaction.irreps_out)],
            density,
            by_type,
            polynomial_of(
                self.product,
                num_types=self.num_types,
                dtype=self.dtype,
                can_choose=self.can_choose,
            ),
            _same_irreps(linear, linear.irreps_in, linear.irreps_out, dtype=self.dtype),
        )

    def _skip(self) -> Skip | None:
        if type(self.interaction).__name__ in PLAIN or not self.product.use_sc:
            return None
        maps = self._by_type()
        if self.embedding is None:
            irreps = plain_irreps(self.interaction.node_feats_irreps)
            return typed_skip(irreps, maps, dtype=self.dtype, static_shapes=not self.can_choose)
        ((output, (_, weight)),) = maps.items()
        rows = torch.einsum("zc,zcd->zd", self.embedding, weight)
        return Skip([], [output], _TypeRows(rows, dtype=self.dtype))

    def _by_type(self) -> dict[int, tuple[int, torch.Tensor]]:
        """(input, weight [num_types, in, out]) per output irreps of the skip product."""
        exact = in_float64(self.interaction.skip_tp)
        one_hot = torch.eye(self.num_types, dtype=torch.float64)
        irreps_in, irreps_out = o3.Irreps(exact.irreps_in1), o3.Irreps(exact.irreps_out)
        return blocks_by_irrep(matrices_by_row(exact, one_hot), irreps_in, irreps_out)


class _ProductBasis(torch.nn.Module):
    """What becomes of an atom's messages: density, type, product basis, linear map.

    Args:
        components: 2l+1 of each irreps of the messages.
        density: convolution that sums an atom's density, or None.
        by_type: linear maps by type, or None.
        polynomial: the product basis.
        linear: of its result.
    """

    def __init__(
        self,
        components: list[int],
        density: torch.nn.Module | None,
        by_type: TypedLinear | None,
        polynomial: PolynomialOfComponents | PolynomialOfChosen,
        linear: BlockLinear,
    ):
        super().__init__()
        self.is_chosen = isinstance(polynomial, PolynomialOfChosen)
        self.components = components
        self.density = density
        self.by_type = by_type
        self.polynomial = polynomial
        self.linear = linear

    def forward(
        self,
        pieces: list[torch.Tensor],
        vectors: torch.Tensor,
        index: torch.Tensor,
        types: torch.Tensor,
        num_centres: torch.Tensor,
        kept: torch.Tensor,
    ) -> list[torch.Tensor]:
        """One [num_kept * (2l+1), channels] per irreps -> the same of the layer's output."""
        num_kept = kept.size(0)
        if self.density is not None:
            ones = torch.ones(types.size(0), dtype=pieces[0].dtype, device=pieces[0].device)
            density = self.density(vectors, ones, index, types, num_centres, kept)
            factor = (1.0 + density).reciprocal().view(-1, 1, 1)
            pieces = [
                (piece.view(num_kept, self.components[number], piece.size(1)) * factor).view(
                    piece.size()
                )
                for number, piece in enumerate(pieces)
            ]
        if self.by_type is not None:
            pieces = self.by_type(as_blocks(pieces), kept, num_kept)
        basis = self.polynomial(torch.cat(pieces), kept, num_centres)
        return self.linear(basis.view(-1), num_kept)

    def choose(self, types: list[int]) -> float:
        """Make the tables of the density and the coefficients of the product."""
        error = self.polynomial.choose(types)
        return error if self.density is None else self.density.choose(types)


class _TypeRows(torch.nn.Module):
    """Scalars that depend on the type alone, as the maps of a skip connection."""

    def __init__(self, rows: torch.Tensor, *, dtype: torch.dtype):
        super().__init__()
        self.register_buffer("rows", rows.to(dtype))

    def forward(self, x: torch.Tensor, types: torch.Tensor, num_atoms: int) -> list[torch.Tensor]:
        return [self.rows[types]]


class _NoReadout(torch.nn.Module):
    def forward(self, pieces: list[torch.Tensor], types: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, 1, dtype=pieces[0].dtype, device=pieces[0].device)


class _Readout(torch.nn.Module):
    """The adapter's readout on the scalars of blocked features.

    A readout gives scalars by linear maps first, so that only the scalars count. Upstream's linear
    map and MLP become matrix products; another block of upstream's gets zeros elsewhere.
    """

    def __init__(
        self, readout: MACEReadout, irreps: o3.Irreps, *, num_types: int, dtype: torch.dtype
    ):
        super().__init__()
        self.number = _scalar_part(irreps)
        part = irreps.slices()[self.number]
        dense = _dense_readout(readout.block, irreps, dtype=dtype)
        self.block = readout.block if dense is None else dense
        self.padding = [part.start, irreps.dim - part.stop] if dense is None else [0, 0]
        self.function = None if readout.beside is None else readout.beside.function
        self.per_type = readout.beside is not None and readout.beside.per_type
        self.num_types = num_types

    def forward(self, pieces: list[torch.Tensor], types: torch.Tensor) -> torch.Tensor:
        scalars = pieces[self.number]
        energy = torch.zeros(1, dtype=scalars.dtype, device=scalars.device)
        if self.block is not None:
            features = scalars
            if sum(self.padding) > 0:
                features = torch.nn.functional.pad(scalars, self.padding)
            energy = energy + self.block(features)
        if self.function is not None:
            if self.per_type:
                types = types.view(-1)[: scalars.size(0)]
                one_hot = torch.nn.functional.one_hot(types, self.num_types).to(scalars.dtype)
                scalars = by_type(scalars, one_hot)
            energy = energy + self.function(scalars)
        return energy


class _Dense(torch.nn.Module):
    """Matrix products with an activation between them: upstream's readouts on scalars alone.

    Args:
        weights: [in, out] each, one after the other.
        activation: between two of them.
    """

    def __init__(self, weights: list[torch.Tensor], activation: torch.nn.Module):
        super().__init__()
        self.register_buffer("first", weights[0])
        self.register_buffer("last", weights[-1])
        self.is_linear = len(weights) == 1
        self.activation = activation

    def forward(self, scalars: torch.Tensor) -> torch.Tensor:
        x = torch.mm(scalars, self.first)
        return x if self.is_linear else torch.mm(self.activation(x), self.last)


def _dense_readout(
    block: torch.nn.Module | None, irreps: o3.Irreps, *, dtype: torch.dtype
) -> _Dense | None:
    """A readout block as matrices; None where there is none or it is another kind of block."""
    kind = type(block).__name__
    if kind == "LinearReadoutBlock":
        maps, activation = [block.linear], torch.nn.Identity()
    elif kind == "NonLinearReadoutBlock":
        maps, activation = [block.linear_1, block.linear_2], block.non_linearity
    else:
        return None
    weights = [
        linear_matrix(in_float64(part), o3.Irreps(part.irreps_in), o3.Irreps(part.irreps_out))
        for part in maps
    ]
    weights[0] = weights[0][channel_slices(irreps)[_scalar_part(irreps)]]
    return _Dense([weight.to(dtype) for weight in weights], activation)


def _scalar_part(irreps: o3.Irreps) -> int:
    return next(number for number, (_, ir) in enumerate(irreps) if ir == o3.Irrep(0, 1))


def _same_irreps(
    linear: Callable, irreps_in: o3.Irreps, irreps_out: o3.Irreps, *, dtype: torch.dtype
) -> BlockLinear:
    """A linear map between features of which every irreps comes once."""
    irreps_in, irreps_out = o3.Irreps(irreps_in), o3.Irreps(irreps_out)
    matrix = linear_matrix(linear, irreps_in, irreps_out)
    maps = blocks_by_irrep(matrix, irreps_in, irreps_out)
    return BlockLinear(plain_irreps(irreps_in), list(maps.values()), dtype=dtype)


def _mid_linear(
    interaction: torch.nn.Module, fused: FusedConvolution, *, dtype: torch.dtype
) -> BlockLinear:
    """Upstream's linear map after the convolution, over the average number of neighbours.

    Blocks with a density divide by that instead, atom by atom.
    """
    linear = in_float64(interaction.linear)
    irreps_out = o3.Irreps(linear.irreps_out)
    matrix = linear_matrix(linear, o3.Irreps(linear.irreps_in), irreps_out)
    if not hasattr(interaction, "density_fn"):
        matrix = matrix / float(interaction.avg_num_neighbors)
    kinds = [irrep for _, irrep in fused.irreps]
    maps = []
    for (_, irrep), columns in zip(irreps_out, channel_slices(irreps_out), strict=True):
        number = kinds.index(irrep)
        maps.append((number, matrix[fused.upstream_rows[number]][:, columns]))
    return BlockLinear(plain_irreps(fused.irreps), maps, dtype=dtype)


def density_functions(
    interaction: torch.nn.Module, edges: MACEEdgeEmbedding, num_types: int
) -> list[RadialFunction] | None:
    """An edge's share of its centre's density, as :func:`radial_functions` gives functions.

    None where the messages are divided by a constant.
    """
    if not hasattr(interaction, "density_fn"):
        return None
    return radial_functions(_Density(interaction.density_fn), edges, num_types)


class _Density(torch.nn.Module):
    """An edge's share of an atom's density, [num_edges, 1], from its radial embedding.

    Source: mace-torch's blocks with densities.
    """

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network

    def forward(self, radial: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.network(radial) ** 2)


def _sum_of_scalars() -> o3.TensorProduct:
    """A convolution of ones with it is the sum of a radial function over neighbours."""
    return o3.TensorProduct(
        "0e",
        "0e",
        "0e",
        [(0, 0, 0, "uvu", True)],
        shared_weights=False,
        internal_weights=False,
    )


def radial_functions(
    network: torch.nn.Module, edges: MACEEdgeEmbedding, num_types: int
) -> list[RadialFunction]:
    """A network of the radial embedding by distance, for each (centre, neighbour) pair of types.

    One function serves all pairs unless the distance is transformed by element.
    """
    functions = FunctionsOfPair(network, edges, num_types)
    pairs = itertools.product(range(functions.num_types), repeat=2)
    return [partial(functions, centre=i, neighbour=j) for i, j in pairs]


class FunctionsOfPair(torch.nn.Module):
    """A network of the radial embedding by distance and types, float64.

    Args:
        network: of the radial embedding.
        edges: the adapter's edge embedding.
        num_types: number of atom types.

    Attributes:
        num_types: that differ; 1 unless the distance is transformed by element.
    """

    def __init__(self, network: torch.nn.Module, edges: MACEEdgeEmbedding, num_types: int):
        super().__init__()
        self.embedding = in_float64(edges.radial_embedding)
        self.network = in_float64(network)
        self.register_buffer("numbers", edges.atomic_numbers.clone())
        self.register_buffer("one_hot", torch.eye(num_types, dtype=torch.float64))
        self.num_types = num_types if hasattr(self.embedding, "distance_transform") else 1

    def forward(self, lengths: torch.Tensor, centre: int, neighbour: int) -> torch.Tensor:
        """Weights [n, num_functions] of a tensor product for lengths [n], Å."""
        # MACE's sender and receiver
        ends = torch.stack([self.one_hot[neighbour], self.one_hot[centre]])
        index = torch.tensor([[0], [1]]).expand(-1, lengths.size(0))
        radial, cutoff = self.embedding(lengths.unsqueeze(1), ends, index, self.numbers)
        weights = self.network(radial)
        if cutoff is not None:
            weights = weights * cutoff
        return weights
