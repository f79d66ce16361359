"""MACE on fused operators: tables, one convolution and one polynomial per layer.

Upstream's layer evaluates a radial network and a tensor product per edge and sums over neighbours;
its product basis multiplies dense coupling tensors. Here, with features in blocks per irreps:

    H = W_up x,  M_i = CG Σ_j R(r_ij) Y(r̂_ij) H_j   one operator, R from tables (fused convolution)
    A = W_mid M                                       one matrix product per l
    B_m = Σ_{ijk} P^z_mijk A_i A_j A_k                one operator: U and weights multiplied out,
                                                      permutations of i, j, k added up
    x' = W_product B + W^z_skip x
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable

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
from kan_md.ops.layout import Monomial, make_polynomial, pack_coefficients
from kan_md.ops.library import is_built
from kan_md.ops.modules import (
    BlockLinear,
    Irreps,
    PolynomialOfComponents,
    TypedLinear,
    as_blocks,
)
from kan_md.ops.tables import BoundNotReachedError, RadialFunction
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.chain import Chain
from kan_md_deploy.passes.convolutions import (
    TABLE_BOUND,
    FusedConvolution,
    can_fuse,
    fuse_convolution,
)
from kan_md_deploy.passes.equivariant import channel_slices, in_float64, linear_matrix
from kan_md_deploy.passes.reach import centres_per_layer, kept_rows, rows_of_first
from kan_md_deploy.wrapper import NUM_LOCAL_KEY

_PLAIN = ("RealAgnosticInteractionBlock", "RealAgnosticDensityInteractionBlock")
_RESIDUAL = ("RealAgnosticResidualInteractionBlock", "RealAgnosticDensityResidualInteractionBlock")
_HIGHEST_CORRELATION = 3
_NOISE = {torch.float32: 1e-7, torch.float64: 1e-13}
"""Entries of a coupling tensor below this share of the largest are rounding errors."""


class FusedMACE:
    """The pass; see the module."""

    name = "fused_mace"
    needs_operators = True

    def applies_to(self, model: GraphModel, context: PassContext) -> bool:
        """Whether the model is our MACE with interactions that are understood.

        Tables approximate: a bound of zero leaves the pass out.
        """
        parts = list(model.model.func.children())
        possible = context.bound > 0 and is_built()
        if not possible or not isinstance(parts[0], MACENodeEmbedding):
            return False
        layers = [part for part in parts if isinstance(part, MACELayer)]
        return all(
            type(layer.interaction).__name__ in (*_PLAIN, *_RESIDUAL)
            and can_fuse(layer.interaction.conv_tp)
            and _understood(layer.product)
            for layer in layers
        )

    def apply(self, model: GraphModel, context: PassContext) -> dict:
        """Replace embeddings, layers and readouts by one :class:`MACEOnOperators`."""
        network = model.model.func
        rest = OrderedDict(network.named_children())
        mace = (MACENodeEmbedding, MACEEdgeEmbedding, MACELayer, MACEReadout)
        parts = {
            name: rest.pop(name) for name, part in list(rest.items()) if isinstance(part, mace)
        }
        try:
            fused = MACEOnOperators(
                parts,
                rows=kept_rows(static_shapes=context.static_shapes),
                num_types=context.num_types,
                bound=context.bound,
                with_fields="pair_repulsion" in rest,
            )
        except BoundNotReachedError as reason:
            return {"bound": 0.0, "skipped": str(reason)}
        model.model.func = Chain({"mace": fused, **rest})
        return {"bound": fused.error, "operator": "kan_md::convolution"}


class MACEOnOperators(torch.nn.Module):
    """All of MACE up to the sum of the readouts.

    Args:
        parts: the adapter's modules by name, in order.
        rows: which rows a layer keeps, see :mod:`kan_md_deploy.passes.reach`.
        num_types: number of atom types.
        bound: of the radial tables.
        with_fields: whether a later module reads one-hot types and edge lengths.
    """

    def __init__(
        self,
        parts: dict[str, torch.nn.Module],
        *,
        rows: torch.nn.Module,
        num_types: int,
        bound: float,
        with_fields: bool,
    ):
        super().__init__()
        embedding: MACENodeEmbedding = parts["node_embedding"]
        edges: MACEEdgeEmbedding = parts["edge_embedding"]
        dtype = edges._dtype
        bound = min(bound, TABLE_BOUND[dtype])
        features = in_float64(embedding.node_embedding)(torch.eye(num_types, dtype=torch.float64))
        self.node_embedding = embedding if with_fields else None
        layers, readouts, errors = [], [], []
        for part in parts.values():
            if isinstance(part, MACELayer):
                layer = LayerOnOperators(
                    part,
                    edges,
                    embedding=features if not layers else None,
                    num_types=num_types,
                    bound=bound,
                    dtype=dtype,
                )
                layers.append(layer)
                readouts.append(None)
                errors.append(layer.error)
            if isinstance(part, MACEReadout):
                readouts[-1] = _Readout(part, layers[-1].irreps)
        self.layers = torch.nn.ModuleList(layers)
        self.readouts = torch.nn.ModuleList(r or _NoReadout() for r in readouts)
        self.rows = rows
        self.error = max(errors)
        self._vectors = AtomicDataDict.EDGE_VECTORS_KEY
        self._index = AtomicDataDict.EDGE_INDEX_KEY
        self._types = AtomicDataDict.ATOM_TYPE_KEY
        self._energy = AtomicDataDict.PER_ATOM_ENERGY_KEY
        self._num_local = NUM_LOCAL_KEY

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Set ``atomic_energy`` [num_atoms, 1]; ghosts' are without meaning."""
        if self.node_embedding is not None:
            data = with_edge_vectors_(data, with_lengths=True)
            data = self.node_embedding(data)
        types = data[self._types].view(-1)
        vectors, index = data[self._vectors], data[self._index]
        num_atoms = types.size(0)
        centres = centres_per_layer(index, data[self._num_local], len(self.layers))
        num_last = self.rows(data[self._num_local], num_atoms)
        x = torch.zeros(0, device=vectors.device)
        energy = torch.zeros(1, 1, device=vectors.device)
        for layer, readout in zip(self.layers, self.readouts):  # noqa: B905 - TorchScript
            num_centres = centres.pop(0)
            num_kept = self.rows(num_centres, types.size(0))
            pieces = layer(vectors, x, index, types, num_centres, num_kept)
            x, types = as_blocks(pieces), types[:num_kept]
            energy = energy + readout(pieces)[:num_last]
        data[self._energy] = torch.nn.functional.pad(energy, [0, 0, 0, num_atoms - num_last])
        return data


class LayerOnOperators(torch.nn.Module):
    """One interaction with its product basis.

    Args:
        layer: the adapter's layer.
        edges: the adapter's edge embedding.
        embedding: [num_types, channels] float64 features of the types, for the first layer.
        num_types: number of atom types.
        bound: of the radial tables.
        dtype: of the model.
    """

    def __init__(
        self,
        layer: MACELayer,
        edges: MACEEdgeEmbedding,
        *,
        embedding: torch.Tensor | None,
        num_types: int,
        bound: float,
        dtype: torch.dtype,
    ):
        super().__init__()
        interaction, product = layer.interaction, layer.product
        cutoff = float(edges.radial_embedding.cutoff_fn.r_max)

        def convolution(product: o3.TensorProduct, network: torch.nn.Module) -> FusedConvolution:
            functions = _radial_functions(network, edges, num_types)
            return fuse_convolution(
                product,
                functions,
                [cutoff] * len(functions),
                reversed_edges=True,
                bound=bound,
                dtype=dtype,
            )

        fused = convolution(interaction.conv_tp, interaction.conv_tp_weights)
        self.error = fused.error
        self.convolution = fused.module
        self.density = None
        if hasattr(interaction, "density_fn"):
            density = convolution(_sum_of_scalars(), _Density(interaction.density_fn))
            self.error = max(self.error, density.error)
            self.density = density.module
        up = in_float64(interaction.linear_up)
        if embedding is not None:
            self.up = _TypeFeatures(up(embedding), dtype=dtype)
        else:
            self.up = _Up(_same_irreps(up, up.irreps_in, up.irreps_out, dtype=dtype))
        self.mid = _mid_linear(interaction, fused, dtype=dtype)
        plain = type(interaction).__name__ in _PLAIN
        typed = _typed_blocks(interaction.skip_tp, num_types)
        self.by_type = self.skip = None
        if plain:
            irreps = _plain_irreps(interaction.irreps_out)
            self.by_type = TypedLinear(irreps, list(typed.values()), dtype=dtype)
        self.product = _polynomial(product, num_types=num_types, dtype=dtype)
        linear = in_float64(product.linear)
        self.linear = _same_irreps(linear, linear.irreps_in, linear.irreps_out, dtype=dtype)
        self.irreps = o3.Irreps(linear.irreps_out)
        self.skip_outputs: list[int] = []
        self.skip_sizes = [0]  # of what the skip connection reads, by blocks
        if not plain and product.use_sc:
            self.skip_outputs = list(typed)
            irreps = _plain_irreps(interaction.node_feats_irreps)
            if embedding is not None:
                rows = [
                    torch.einsum("zc,zcd->zd", embedding, weight) for _, weight in typed.values()
                ]
                self.skip = _TypeSkip(rows, dtype=dtype)
            else:
                self.skip = TypedLinear(irreps, list(typed.values()), dtype=dtype)
                self.skip_sizes = [channels * (2 * degree + 1) for channels, degree in irreps]

    def forward(
        self,
        vectors: torch.Tensor,
        x: torch.Tensor,
        index: torch.Tensor,
        types: torch.Tensor,
        num_centres: torch.Tensor,
        num_kept: int,
    ) -> list[torch.Tensor]:
        """Blocked features -> one [num_kept * (2l+1), channels] per irreps.

        Rows beyond the first ``num_centres`` [1] atoms are without meaning.
        """
        num_atoms = types.size(0)
        neighbours = self.up(x, types, num_atoms)
        messages = self.convolution(vectors, neighbours, index, types, num_centres)
        messages = rows_of_first(messages, self.mid.sizes, num_atoms, num_kept)
        all_types, types = types, types[:num_kept]
        pieces = self.mid(messages, num_kept)
        if self.density is not None:
            ones = torch.ones(num_atoms, dtype=messages.dtype, device=messages.device)
            density = self.density(vectors, ones, index, all_types, num_centres)[:num_kept]
            factor = (1.0 + density).reciprocal().view(-1, 1, 1)
            pieces = [
                (piece.view(num_kept, -1, piece.size(1)) * factor).view(piece.size())
                for piece in pieces
            ]
        if self.by_type is not None:
            pieces = self.by_type(as_blocks(pieces), types, num_kept)
        basis = self.product(torch.cat(pieces), types, num_centres)
        out = self.linear(basis.view(-1), num_kept)
        if self.skip is not None:
            x = rows_of_first(x, self.skip_sizes, num_atoms, num_kept)
            pieces = self.skip(x, types, num_kept)
            for number, output in enumerate(self.skip_outputs):
                out[output] = out[output] + pieces[number]
        return out


class _Up(torch.nn.Module):
    def __init__(self, linear: BlockLinear):
        super().__init__()
        self.linear = linear

    def forward(self, x: torch.Tensor, types: torch.Tensor, num_atoms: int) -> torch.Tensor:
        return as_blocks(self.linear(x, num_atoms))


class _TypeFeatures(torch.nn.Module):
    """Scalars that depend on the type alone."""

    def __init__(self, rows: torch.Tensor, *, dtype: torch.dtype):
        super().__init__()
        self.register_buffer("rows", rows.to(dtype))

    def forward(self, x: torch.Tensor, types: torch.Tensor, num_atoms: int) -> torch.Tensor:
        return self.rows[types].view(-1)


class _TypeSkip(torch.nn.Module):
    """A skip connection from features that depend on the type alone: scalars, one per output."""

    def __init__(self, rows: list[torch.Tensor], *, dtype: torch.dtype):
        super().__init__()
        (only,) = rows
        self.register_buffer("rows", only.to(dtype))

    def forward(self, x: torch.Tensor, types: torch.Tensor, num_atoms: int) -> list[torch.Tensor]:
        return [self.rows[types]]


class _NoReadout(torch.nn.Module):
    def forward(self, pieces: list[torch.Tensor]) -> torch.Tensor:
        return torch.zeros(1, 1, dtype=pieces[0].dtype, device=pieces[0].device)


class _Readout(torch.nn.Module):
    """The adapter's readout on the scalars of blocked features.

    A readout gives scalars by linear maps first, so that only the scalars count; upstream's block
    gets zeros elsewhere.
    """

    def __init__(self, readout: MACEReadout, irreps: o3.Irreps):
        super().__init__()
        self.number = _scalar_part(irreps)
        part = irreps.slices()[self.number]
        self.before, self.after = part.start, irreps.dim - part.stop
        self.block = readout.block
        self.function = None if readout.beside is None else readout.beside.function

    def forward(self, pieces: list[torch.Tensor]) -> torch.Tensor:
        scalars = pieces[self.number]
        energy = torch.zeros(1, dtype=scalars.dtype, device=scalars.device)
        if self.block is not None:
            features = torch.nn.functional.pad(scalars, [self.before, self.after])
            energy = energy + self.block(features)
        if self.function is not None:
            energy = energy + self.function(scalars)
        return energy


def _understood(product: torch.nn.Module) -> bool:
    """Whether the contraction is upstream's own and every irreps comes once, scalars included."""
    if not hasattr(product.symmetric_contractions, "contractions"):
        return False
    contractions = product.symmetric_contractions.contractions
    if any(part.correlation > _HIGHEST_CORRELATION for part in contractions):
        return False
    irreps = o3.Irreps(product.linear.irreps_out)
    return len({ir for _, ir in irreps}) == len(irreps) and (0, 1) in {
        (ir.l, ir.p) for _, ir in irreps
    }


def _scalar_part(irreps: o3.Irreps) -> int:
    return next(number for number, (_, ir) in enumerate(irreps) if ir == o3.Irrep(0, 1))


def _plain_irreps(irreps: o3.Irreps) -> Irreps:
    return [(mul, ir.l) for mul, ir in irreps]


def _same_irreps(
    linear: Callable, irreps_in: o3.Irreps, irreps_out: o3.Irreps, *, dtype: torch.dtype
) -> BlockLinear:
    """A linear map between features of which every irreps comes once."""
    irreps_in, irreps_out = o3.Irreps(irreps_in), o3.Irreps(irreps_out)
    matrix = linear_matrix(linear, irreps_in, irreps_out)
    return BlockLinear(
        _plain_irreps(irreps_in), list(_blocks(matrix, irreps_in, irreps_out).values()), dtype=dtype
    )


def _blocks(
    matrix: torch.Tensor, irreps_in: o3.Irreps, irreps_out: o3.Irreps
) -> dict[int, tuple[int, torch.Tensor]]:
    """(input, weight) of each output irreps that an input of the same kind feeds."""
    rows, columns = channel_slices(irreps_in), channel_slices(irreps_out)
    kinds = [ir for _, ir in irreps_in]
    return {
        output: (kinds.index(ir), matrix[..., rows[kinds.index(ir)], columns[output]])
        for output, (_, ir) in enumerate(irreps_out)
        if ir in kinds
    }


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
    return BlockLinear([(mul, ir.l) for mul, ir in fused.irreps], maps, dtype=dtype)


def _typed_blocks(product: torch.nn.Module, num_types: int) -> dict[int, tuple[int, torch.Tensor]]:
    """(input, weight [num_types, in, out]) per output irreps of a product with one-hot types."""
    exact = in_float64(product)
    irreps_in, irreps_out = o3.Irreps(exact.irreps_in1), o3.Irreps(exact.irreps_out)
    matrices = []
    for one_hot in torch.eye(num_types, dtype=torch.float64):
        matrices.append(
            linear_matrix(
                lambda rows, one_hot=one_hot: exact(rows, one_hot.expand(len(rows), -1)),
                irreps_in,
                irreps_out,
            )
        )
    return _blocks(torch.stack(matrices), irreps_in, irreps_out)


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


def _radial_functions(
    network: torch.nn.Module, edges: MACEEdgeEmbedding, num_types: int
) -> list[RadialFunction]:
    """A network of the radial embedding by distance, for each (centre, neighbour) pair of types.

    One function serves all pairs unless the distance is transformed by element.
    """
    embedding = in_float64(edges.radial_embedding)
    network = in_float64(network)
    numbers = edges.atomic_numbers
    one_hot = torch.eye(num_types, dtype=torch.float64)

    def of_pair(centre: int, neighbour: int) -> RadialFunction:
        def function(lengths: torch.Tensor) -> torch.Tensor:
            ends = one_hot[[neighbour, centre]]  # MACE's sender and receiver
            index = torch.tensor([[0], [1]]).expand(-1, len(lengths))
            radial, cutoff = embedding(lengths.unsqueeze(1), ends, index, numbers)
            weights = network(radial)
            return weights if cutoff is None else weights * cutoff

        return function

    count = num_types if hasattr(embedding, "distance_transform") else 1
    return [of_pair(*pair) for pair in itertools.product(range(count), repeat=2)]


def _polynomial(
    product: torch.nn.Module, *, num_types: int, dtype: torch.dtype
) -> PolynomialOfComponents:
    """The symmetric contraction with coupling tensors and weights multiplied out."""
    contraction = product.symmetric_contractions
    outputs: list[dict[Monomial, torch.Tensor]] = []
    for part in contraction.contractions:
        outputs += _monomials(part)
    nest = make_polynomial([list(output) for output in outputs])
    values = torch.stack([outputs[output][monomial] for output, monomial in nest.terms], dim=1)
    values = values.expand(num_types, -1, -1)  # one row if the product ignores the element
    return PolynomialOfComponents(
        nest.program,
        pack_coefficients(values.to(dtype)),
        components=[ir.dim for _, ir in o3.Irreps(contraction.irreps_in)],
        outputs=[ir.dim for _, ir in o3.Irreps(contraction.irreps_out)],
    )


def _monomials(contraction: torch.nn.Module) -> list[dict[Monomial, torch.Tensor]]:
    """Coefficients [num_elements, channels] of each monomial, for each component of one irreps.

    out_m = Σ_ν Σ_{i1..iν} U^ν[m, i1..iν, p] w^ν[z, p, c] A_i1 … A_iν
    """
    highest = contraction.correlation
    weights = [contraction.weights_max, *contraction.weights]
    by_output: list[dict[Monomial, torch.Tensor]] = []
    for degree, weight in zip(range(highest, 0, -1), weights, strict=True):
        coupling = contraction.U_tensors(degree)
        noise = _NOISE[coupling.dtype] * coupling.abs().max()
        coupling = coupling.detach().double()
        if coupling.dim() == degree + 1:  # upstream drops the dimension of a scalar's component
            coupling = coupling.unsqueeze(0)
        by_output = by_output or [{} for _ in range(coupling.size(0))]
        for (m, *indices), row in _entries(coupling, noise):
            monomial = tuple(sorted(indices))
            value = torch.einsum("p,zpc->zc", row, weight.detach().double())
            known = by_output[m].get(monomial)
            by_output[m][monomial] = value if known is None else known + value
    return by_output


def _entries(coupling: torch.Tensor, noise: float) -> list[tuple[list[int], torch.Tensor]]:
    """Index and parameters of the entries that are more than rounding errors."""
    flat = coupling.flatten(0, -2)
    shape = coupling.shape[:-1]
    kept = (flat.abs().amax(1) > noise).nonzero().flatten()
    places = torch.stack(torch.unravel_index(kept, shape), dim=1)
    return list(zip(places.tolist(), flat[kept], strict=True))
