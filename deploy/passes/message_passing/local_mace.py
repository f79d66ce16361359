"""A MACE with one interaction, read for ``kan_md::local_mace``.

The features of a neighbour are constants of its type. So all that is linear between the radial
network and the product basis, the linear map up, the tensor product with a neighbour's features,
the linear map behind it, the average number of neighbours and the maps by the centre's type, is
multiplied into one function of the distance per pair of types, degree and channel:

    A_lmk = Σ_j R_lk(r_ij; types) Y_lm(r̂_ij)

and what is linear between the product basis and the readout into one matrix. For many elements the
factors stay apart, see :class:`Expansion`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from e3nn import o3

from kan_md.backbones.mace_modules import MACEEdgeEmbedding, MACELayer, MACEReadout
from kan_md.forms.networks import linear_weight, split_function
from kan_md.kan.controls import FinnisSinclair, LinearPerType
from kan_md.kan.layer import KANLayer
from kan_md.kan.network import KAN
from kan_md.kan.per_type import PerTypeKAN
from kan_md.ops.tables import RadialFunction
from kan_md_deploy.passes.allegro.latents import perceptron_matrices
from kan_md_deploy.passes.message_passing.linear_maps import (
    channel_slices,
    in_float64,
    linear_matrix,
    matrices_by_row,
)
from kan_md_deploy.passes.message_passing.mace import (
    PLAIN,
    density_functions,
    radial_functions,
)

# enum Embedding in local_mace_plan.h
LINEAR, PERCEPTRON, KAN_FUNCTIONS, KAN_NETWORK, FINNIS_SINCLAIR = 0, 1, 2, 3, 6
PER_TYPE = {KAN_FUNCTIONS: 4, KAN_NETWORK: 5}


@dataclass(frozen=True)
class EmbeddingFunction:
    """What a readout makes of the scalars of an atom.

    Attributes:
        kind: of enum Embedding.
        first: [scalars, densities] float64, linear map to the densities.
        hidden: of a perceptron, from hidden layer to hidden layer, float64.
        vector: float64; of a weighted sum or a perceptron, weights of the last sum, or of each
            type's; of lines and square roots, see
            :meth:`kan_md.kan.controls.FinnisSinclair.constants`.
        kans: layers of the densities' KAN, or of each type's.
    """

    kind: int
    first: torch.Tensor
    hidden: tuple[torch.Tensor, ...] = ()
    vector: torch.Tensor | None = None
    kans: tuple[tuple[KANLayer, ...], ...] = ()

    @property
    def has_tables(self) -> bool:
        """Whether functions of one variable are tabulated."""
        return self.kind in (KAN_FUNCTIONS, PER_TYPE[KAN_FUNCTIONS])


def read_embedding(readout: MACEReadout, irreps: o3.Irreps) -> EmbeddingFunction | None:
    """The function of a readout; None for one that the operator does not know.

    Args:
        readout: the adapter's; one of a block of upstream's and a function of scalars.
        irreps: of the features that it reads.
    """
    if readout.beside is None:
        return _of_upstream(readout.block, irreps)
    return None if readout.block is not None else _of_function(readout.beside.function)


def _of_upstream(block: torch.nn.Module, irreps: o3.Irreps) -> EmbeddingFunction | None:
    """Upstream's linear readout, or its perceptron of one hidden layer with SiLU."""
    scalars = scalar_channels(irreps)
    identity = torch.eye(scalars.stop - scalars.start, dtype=torch.float64)
    kind = type(block).__name__
    if kind == "LinearReadoutBlock":
        matrix = _matrix(block.linear)[scalars]
        vector = matrix.flatten()
        return EmbeddingFunction(LINEAR, identity, vector=vector) if matrix.size(1) == 1 else None
    acts = block.non_linearity.acts if kind == "NonLinearReadoutBlock" else []
    if len(acts) != 1 or getattr(acts[0], "f", None) is not torch.nn.functional.silu:
        return None
    last = _matrix(block.linear_2)
    if last.size(1) != 1:  # several heads
        return None
    one = torch.ones(1, dtype=torch.float64)
    factor = float(acts[0](one) / torch.nn.functional.silu(one))  # for unit variance
    hidden = (_matrix(block.linear_1)[scalars],)
    return EmbeddingFunction(PERCEPTRON, identity, hidden=hidden, vector=factor * last.flatten())


def _matrix(linear: o3.Linear) -> torch.Tensor:
    """Matrix between the channels of a linear map of e3nn, float64."""
    exact = in_float64(linear)
    return linear_matrix(exact, o3.Irreps(exact.irreps_in), o3.Irreps(exact.irreps_out))


def _of_function(function: torch.nn.Module) -> EmbeddingFunction | None:
    """One of our own readouts."""
    if isinstance(function, PerTypeKAN):
        projection = function.projection
        first = None if projection is None else linear_weight(projection[0])
        return _of_kans(list(function.kans), first, per_type=True)
    if isinstance(function, (FinnisSinclair, LinearPerType)):
        identity = torch.eye(function.dims[0], dtype=torch.float64)
        is_linear = isinstance(function, LinearPerType)
        vector = function.matrix() if is_linear else function.constants()
        kind = LINEAR if is_linear else FINNIS_SINCLAIR
        return EmbeddingFunction(kind, identity, vector=vector.detach().double())
    split = split_function(function)
    if split is None or split.out_features != 1:
        return None
    if isinstance(function, KAN):
        return _of_kans([function], None)
    if isinstance(split.body, KAN):
        return _of_kans([split.body], split.first)
    return _of_perceptron(split.first, split.body, split.last)


def _of_kans(
    kans: Sequence[KAN], first: torch.Tensor | None, *, per_type: bool = False
) -> EmbeddingFunction | None:
    """A KAN, or one for each type, behind a linear map that may be none."""
    layers = tuple(tuple(kan.layers) for kan in kans)
    if not all(layer.zero_preserving for of_one in layers for layer in of_one):
        return None
    if first is None:
        first = torch.eye(kans[0].widths[0], dtype=torch.float64)
    kind = KAN_FUNCTIONS if len(layers[0]) == 1 else KAN_NETWORK
    return EmbeddingFunction(PER_TYPE[kind] if per_type else kind, first, kans=layers)


def _of_perceptron(
    first: torch.Tensor, body: torch.nn.Module, last: torch.Tensor | None
) -> EmbeddingFunction | None:
    if last is None:
        if not isinstance(body, torch.nn.Identity) or first.size(1) != 1:
            return None
        identity = torch.eye(first.size(0), dtype=torch.float64)
        return EmbeddingFunction(LINEAR, identity, vector=first.flatten())
    hidden = perceptron_matrices(list(body))
    if hidden is None:
        return None
    identity = torch.eye(first.size(0), dtype=torch.float64)
    return EmbeddingFunction(PERCEPTRON, identity, hidden=(first, *hidden), vector=last.flatten())


def scalar_channels(irreps: o3.Irreps) -> slice:
    """Channels of the invariant scalars among those of all irreps."""
    number = next(n for n, (_, ir) in enumerate(irreps) if ir == o3.Irrep(0, 1))
    return channel_slices(irreps)[number]


def has_one_channel_per_degree(irreps: o3.Irreps) -> bool:
    """Whether irreps are 0e + 1o + 2e + … with equally many channels."""
    degrees = [ir.l for _, ir in irreps]
    return (
        degrees == list(range(len(degrees)))
        and len({channels for channels, _ in irreps}) == 1
        and all(ir.p == (-1) ** ir.l for _, ir in irreps)
    )


@dataclass(frozen=True)
class Expansion:
    """The sum over neighbours, between the radial functions and the product basis.

        S_lmu = Σ_j f_u(type of j) w_lu(r_ij) Y_lm(r̂_ij),  A_lmk = Σ_u S_lmu M_luk(type of i)

    and A divided by 1 + Σ_j d(r_ij) where the model has densities.

    Attributes:
        radial: w for each pair (centre, neighbour) of types, or one for all; columns by degree,
            then channel.
        density: d in the same way, one column; or None.
        neighbours: f, [num_types, channels in] float64.
        maps: M, [num_types or 1, l_max + 1, channels in, channels] float64.
    """

    radial: Sequence[RadialFunction]
    density: Sequence[RadialFunction] | None
    neighbours: torch.Tensor
    maps: torch.Tensor

    def functions(self) -> list[RadialFunction]:
        """What an operator has tables of, w and d side by side."""
        return [self._with_density(w, pair) for pair, w in enumerate(self.radial)]

    def functions_of_pairs(self) -> list[RadialFunction]:
        """The same for each pair of types, with f and M multiplied into them."""
        num_types = len(self.neighbours)
        return [self._of_pair(*pair) for pair in itertools.product(range(num_types), repeat=2)]

    def _of_pair(self, centre: int, neighbour: int) -> RadialFunction:
        number = centre * len(self.neighbours) + neighbour if len(self.radial) > 1 else 0
        maps = self.maps[centre if len(self.maps) > 1 else 0]
        weights = self.neighbours[neighbour].unsqueeze(1) * maps  # [l_max + 1, in, channels]
        radial = self.radial[number]

        def function(lengths: torch.Tensor) -> torch.Tensor:
            found = radial(lengths).unflatten(1, weights.shape[:2])
            return torch.einsum("nlu,luk->nlk", found, weights).flatten(1)

        return self._with_density(function, number)

    def _with_density(self, function: RadialFunction, number: int) -> RadialFunction:
        if self.density is None:
            return function
        density = self.density[number]
        return lambda lengths: torch.cat([function(lengths), density(lengths)], dim=1)


def read_expansion(
    layer: MACELayer, edges: MACEEdgeEmbedding, embedding: torch.Tensor
) -> Expansion:
    """The sum over neighbours of the adapter's only layer.

    Args:
        layer: the layer.
        edges: the adapter's edge embedding.
        embedding: [num_types, channels] float64, features of the types.
    """
    interaction = layer.interaction
    num_types = len(embedding)
    product, linear = in_float64(interaction.conv_tp), in_float64(interaction.linear)
    features = in_float64(interaction.linear_up)(embedding)
    harmonics = o3.Irreps(product.irreps_in2)
    between, irreps = o3.Irreps(product.irreps_out), o3.Irreps(linear.irreps_out)
    # A harmonic of degree l alone gives features of degree l alone, and its first component theirs.
    firsts = [part.start for part in harmonics.slices()]
    wanted = [
        slice(part.start, part.stop, ir.dim)
        for part, (_, ir) in zip(between.slices(), between, strict=True)
    ]
    # MACE's vectors point to the centre: Y_l(-r̂) = (-1)^l Y_l(r̂).
    signs = [(-1.0) ** ir.l for _, ir in harmonics]
    ones = torch.ones(1, features.size(1), dtype=torch.float64)

    def without_types(weights: RadialFunction) -> RadialFunction:
        def function(lengths: torch.Tensor) -> torch.Tensor:
            tensor_weights, pieces = weights(lengths), []
            for first, columns, sign in zip(firsts, wanted, signs, strict=True):
                unit = torch.zeros(len(lengths), harmonics.dim, dtype=lengths.dtype)
                unit[:, first] = sign
                sender = ones.expand(len(lengths), -1)
                pieces.append(product(sender, unit, tensor_weights)[:, columns])
            return torch.cat(pieces, dim=1)

        return function

    matrix = linear_matrix(linear, between, irreps)
    rows, columns = channel_slices(between), channel_slices(irreps)
    maps = torch.stack([matrix[r, c] for r, c in zip(rows, columns, strict=True)]).unsqueeze(0)
    if type(interaction).__name__ in PLAIN:
        one_hot = torch.eye(num_types, dtype=torch.float64)
        by_type = matrices_by_row(in_float64(interaction.skip_tp), one_hot)
        squares = torch.stack([by_type[:, c, c] for c in columns], dim=1)
        maps = torch.einsum("luk,zlkq->zluq", maps[0], squares)
    density = density_functions(interaction, edges, num_types)
    if density is None:
        maps = maps / float(interaction.avg_num_neighbors)
    radial = radial_functions(interaction.conv_tp_weights, edges, num_types)
    return Expansion([without_types(w) for w in radial], density, features, maps)


def offsets_of_types(layer: MACELayer, embedding: torch.Tensor, irreps: o3.Irreps) -> torch.Tensor:
    """What the skip connection adds to an atom's scalars, [num_types, scalars] float64."""
    interaction, scalars = layer.interaction, scalar_channels(irreps)
    count = scalars.stop - scalars.start
    if type(interaction).__name__ in PLAIN or not layer.product.use_sc:
        return torch.zeros(len(embedding), count, dtype=torch.float64)
    one_hot = torch.eye(len(embedding), dtype=torch.float64)
    matrices = matrices_by_row(in_float64(interaction.skip_tp), one_hot)[:, :, scalars]
    return torch.einsum("zc,zcd->zd", embedding, matrices)
