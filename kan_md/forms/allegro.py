"""Allegro without tensors on edges: everything equivariant is contracted once per centre.

Upstream's layer l multiplies the tensor features V of an edge with the environment A of its centre,

    V_l[e,u,k] = Σ_ij V_{l-1}[e,u,i] A_l[c,u,j] W_l[u,i,j,k]
    A_l[c,u,j] = n_c Σ_{e around c} w_l[e,u,l(j)] Y[e,j],        V_0[e,u,i] = w_0[e,u,l(i)] Y[e,i].

Only the scalar k = 0 of each V_l is used by an edge. V_l is linear in V_0 with a matrix that is the
same for all edges of a centre, M_l[c,u,i,k] = Σ_j A_l[c,u,j] W_l[u,i,j,k], so

    V_l[e,u,0] = Σ_i V_0[e,u,i] P_l[c,u,i],        P_l = M_1 M_2 … M_{l-1} M_l[...,0],

products taken from the right. What remains per edge are two small matrix products per layer, done
as one batched product per centre: edges are sorted by centre and padded to the largest count.

Linear maps that follow each other are multiplied out in float64: the last one of a latent network
with the first ones of all networks that read it.
"""

from __future__ import annotations

from math import sqrt
from typing import Literal

import torch
from allegro.nn import Allegro_Module, EdgewiseReduce, TwoBodySphericalHarmonicTensorEmbed
from allegro.nn._strided import Contracter
from nequip.data import AtomicDataDict
from nequip.nn import AvgNumNeighborsNorm, ScalarMLP

from kan_md.forms.activation import twice_differentiable
from kan_md.forms.environment_sums import Environments, environment, projection
from kan_md.forms.harmonics import HarmonicsChain, is_plain_harmonics
from kan_md.forms.networks import (
    Contributions,
    Linear,
    Split,
    linear_weight,
    part_of_layer,
    split_function,
)
from kan_md.forms.pairs import PairBasis, knows_pair_embedding, pair_weights
from kan_md.kan.layer import KANLayer

PARTS = (
    "edge_norm",
    "radial_chemical_embed",
    "scalar_embed_mlp",
    "tensor_embed",
    "allegro",
    "edge_readout",
    "edge_eng_sum",
)
"""Upstream's modules on edges, by their names in the energy model, in order."""

Layout = Literal["slots", "edges", "environments"]


def why_not(energy: torch.nn.Module) -> str | None:
    """Why an energy model has no factored form; None where it has one.

    Args:
        energy: upstream's sequence of modules.
    """
    parts = dict(energy.named_children())
    if tuple(parts)[: len(PARTS)] != PARTS or not isinstance(parts["allegro"], Allegro_Module):
        return "it is not laid out as upstream's Allegro"
    kinds = {
        "tensor_embed": TwoBodySphericalHarmonicTensorEmbed,
        "scalar_embed_mlp": ScalarMLP,
        "edge_readout": ScalarMLP,
        "edge_eng_sum": EdgewiseReduce,
    }
    for name, kind in kinds.items():
        if not isinstance(parts[name], kind):
            return f"its {name} is a {type(parts[name]).__name__}"
    if parts["edge_eng_sum"].reduce != "sum":
        return f"edge energies are reduced by {parts['edge_eng_sum'].reduce}"
    for product in parts["allegro"].tps:
        if type(product) is not Contracter:
            return f"its tensor product is a {type(product).__name__}"
    for name, function in _networks(parts).items():
        if split_function(function) is None:
            return f"its {name} is no perceptron without bias and no KAN"
    return None


def _networks(parts: dict[str, torch.nn.Module]) -> dict[str, torch.nn.Module]:
    latents = {
        f"latent network {number + 1}": latent
        for number, latent in enumerate(parts["allegro"].latents)
    }
    return latents | {
        "two-body network": parts["scalar_embed_mlp"].mlp_module,
        "readout": parts["edge_readout"].mlp_module,
    }


class Radial(torch.nn.Module):
    """The part of Allegro that knows only a pair's distance and types.

    Args:
        length: upstream's ``edge_norm``.
        embed: upstream's ``radial_chemical_embed``.
        function: the scalar embedding network up to its last linear map.
        contributions: what is made of the result.
    """

    def __init__(
        self,
        length: torch.nn.Module,
        embed: torch.nn.Module,
        *,
        function: torch.nn.Module,
        contributions: Contributions,
    ):
        super().__init__()
        self.length = length
        self.embed = embed
        self.function = function
        self.contributions = contributions
        self._field = AtomicDataDict.EDGE_EMBEDDING_KEY

    def forward(self, data: AtomicDataDict.Type) -> list[torch.Tensor]:
        """Tensor weights, environment weights and contributions to the networks."""
        return self.contributions(self.features(data))

    def features(self, data: AtomicDataDict.Type) -> torch.Tensor:
        """The scalar embedding up to its last linear map."""
        data = self.embed(self.length(data))
        return self.function(data[self._field])


class Layer(torch.nn.Module):
    """One Allegro layer: environment of the centres, scalars of the edges, latent network.

    Args:
        product: [channels, i, j, k], weights of the tensor product times Wigner 3j symbols.
        reads: first map of the latent network, restricted to the tensors' scalars.
        body: the latent network from there up to its last linear map.
        contributions: what is made of the result.
    """

    def __init__(
        self,
        product: torch.Tensor,
        reads: torch.nn.Module,
        *,
        body: torch.nn.Module,
        contributions: Contributions,
    ):
        super().__init__()
        channels, self.dim_in, self.dim_basis, self.dim_out = product.shape
        flat = product.permute(0, 2, 1, 3).reshape(channels, self.dim_basis, -1)
        self.register_buffer("product", flat.contiguous())
        self.reads = reads
        self.body = body
        self.contributions = contributions

    def matrix(self, environment: torch.Tensor) -> torch.Tensor:
        """M_l of the module: [channels, centres, j] to [channels, centres, i, k]."""
        matrix = torch.bmm(environment, self.product)
        return matrix.view(matrix.size(0), matrix.size(1), self.dim_in, self.dim_out)

    def forward(self, known: torch.Tensor, scalars: torch.Tensor) -> list[torch.Tensor]:
        """Environment weights (but for the last layer) and contributions to later networks.

        Args:
            known: what earlier parts contributed to the latent network.
            scalars: [num_edges, channels].
        """
        return self.contributions(self.body(known + self.reads(scalars)))


class FactoredAllegro(torch.nn.Module):
    """All of Allegro that lives on edges; see the module.

    Args:
        parts: upstream's modules by their names in the energy model.
        layout: ``slots``, edges padded per centre, whose shape depends on the data; or ``edges``,
            gathers and sums over edges, for compilers that need to know all shapes and fuse loops;
            or ``environments``, of :mod:`kan_md.forms.environment_sums`, twice differentiable.
    """

    def __init__(self, parts: dict[str, torch.nn.Module], *, layout: Layout = "slots"):
        super().__init__()
        self.layout = layout
        allegro: Allegro_Module = parts["allegro"]
        embed: TwoBodySphericalHarmonicTensorEmbed = parts["tensor_embed"]
        self.dtype, device = allegro.tps[0].w3j.dtype, allegro.tps[0].w3j.device
        self.channels = allegro.num_tensor_features
        self.harmonics = _harmonics(embed, self.dtype, device)
        irreps = embed.irreps_out[embed.tensor_basis_out_field]
        self.num_irreps = len(irreps)
        self.slices = irreps.slices()
        member = torch.zeros(len(irreps), irreps.dim, dtype=self.dtype, device=device)
        for number, components in enumerate(irreps.slices()):
            member[number, components] = 1.0  # component i is in irreps l
        self.register_buffer("member", member)
        self.register_buffer("irrep_of", member.argmax(0))
        self._fold(parts)
        self.register_buffer("environment_norm", _norm(allegro.avg_num_neighbors_norm))
        self.register_buffer("energy_norm", _norm(parts["edge_eng_sum"].norm_module) / sqrt(2.0))
        self._vectors = AtomicDataDict.EDGE_VECTORS_KEY
        self._length = AtomicDataDict.EDGE_LENGTH_KEY
        self._index = AtomicDataDict.EDGE_INDEX_KEY
        self._types = AtomicDataDict.ATOM_TYPE_KEY
        self._energy = AtomicDataDict.PER_ATOM_ENERGY_KEY

    def _fold(self, parts: dict[str, torch.nn.Module]) -> None:
        """Split all networks and multiply out the linear maps between them."""
        allegro: Allegro_Module = parts["allegro"]
        width = allegro.num_scalar_features
        readers = [split_function(m) for m in [*allegro.latents, parts["edge_readout"].mlp_module]]

        def contributions(
            direct: list[torch.Tensor], scalars: torch.Tensor, source: int
        ) -> Contributions:
            """From source 0, the pair embedding, or from layer ``source``."""
            rows = slice(source * width, (source + 1) * width)
            return Contributions(
                direct,
                scalars,
                readers=[_part(reader.first, rows) for reader in readers[source:]],
                dtype=self.dtype,
            )

        two_body = split_function(parts["scalar_embed_mlp"].mlp_module)
        last, rest = two_body.last_or_identity(), []
        if self.layout == "environments" and not _is_worth_folding(
            last, self._width_of_pairs(parts)
        ):
            last, rest = torch.eye(last.size(1)).to(last), [Linear(last.to(self.dtype))]
        projection = last @ linear_weight(allegro.first_layer_env_embed_projection)
        tensor = last @ linear_weight(parts["tensor_embed"].env_embed_linear)
        direct = [
            self._by_irrep(tensor, parts["tensor_embed"]._edge_weighter),
            self._by_irrep(projection[:, width:], allegro._env_weighter),
        ]
        first, embed = two_body.first, parts["radial_chemical_embed"]
        if self.layout == "environments" and knows_pair_embedding(embed, first):
            embed, first = PairBasis(embed), pair_weights(embed, first)
        self.radial = Radial(
            parts["edge_norm"],
            embed,
            function=torch.nn.Sequential(_module(first, self.dtype), self._body(two_body), *rest),
            contributions=contributions(direct, projection[:, :width], 0),
        )
        layers = []
        for index, product in enumerate(allegro.tps):
            latent = readers[index]
            last = latent.last_or_identity()
            direct = []
            if index < len(allegro.tps) - 1:
                direct = [self._by_irrep(last[:, width:], allegro._env_weighter)]
            reads = _part(latent.first, slice((index + 1) * width, None))
            layers.append(
                Layer(
                    _dense_weights(product).to(self.dtype),
                    _module(reads, self.dtype),
                    body=self._body(latent),
                    contributions=contributions(direct, last[:, :width], index + 1),
                )
            )
        self.layers = torch.nn.ModuleList(layers)
        readout = readers[-1]
        last = [] if readout.last is None else [Linear(readout.last.to(self.dtype))]
        self.readout = torch.nn.Sequential(self._body(readout), *last)

    def _width_of_pairs(self, parts: dict[str, torch.nn.Module]) -> int:
        """Columns of all maps that read the pair embedding, multiplied out."""
        allegro, width = parts["allegro"], parts["allegro"].num_scalar_features
        readers = [split_function(m) for m in [*allegro.latents, parts["edge_readout"].mlp_module]]
        linear = [r.first.size(1) for r in readers if isinstance(r.first, torch.Tensor)]
        shared = width if len(linear) < len(readers) else 0
        weights = allegro._env_weighter.weight_numel
        return 2 * weights + sum(linear) + shared

    def _body(self, split: Split) -> torch.nn.Module:
        return twice_differentiable(split.body) if self.layout == "environments" else split.body

    def _by_irrep(self, weight: torch.Tensor, weighter: torch.nn.Module) -> torch.Tensor:
        """Reorder columns from upstream's (channel, irrep) to (irrep, channel)."""
        if not weighter.weight_individual_irreps:
            return (weighter.alpha * weight).repeat(1, self.num_irreps)
        split = weight.view(weight.size(0), self.channels, self.num_irreps)
        return weighter.alpha * split.transpose(1, 2).reshape(weight.size(0), -1)

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Add atomic energies [num_atoms, 1] to the dict, before scale and shift."""
        vectors = data[self._vectors]
        types = data[self._types].view(-1)
        centre = data[self._index][0]  # [num_edges], sorted
        energy = torch.zeros(types.size(0), 1, dtype=vectors.dtype, device=vectors.device)
        edge_energy = self._edge_energy(data, vectors, centre, types)
        norm = self.energy_norm if self.energy_norm.size(0) == 1 else self.energy_norm[types]
        energy = energy.index_add(0, centre, edge_energy.to(vectors.dtype))
        data[self._energy] = energy * norm
        return data

    def _edge_energy(
        self,
        data: AtomicDataDict.Type,
        vectors: torch.Tensor,
        centre: torch.Tensor,
        types: torch.Tensor,
    ) -> torch.Tensor:
        """Energies [num_edges, 1] of edges."""
        if self.layout == "edges":
            return self._on_edges(data, vectors, centre, types)
        if vectors.size(0) == 0:
            return vectors.sum(1, keepdim=True)  # keeps the gradient defined
        return self._on_slots(data, vectors, centre, types)

    def _on_slots(
        self,
        data: AtomicDataDict.Type,
        vectors: torch.Tensor,
        centre: torch.Tensor,
        types: torch.Tensor,
    ) -> torch.Tensor:
        """Energies [num_edges, 1] of edges, padded per centre."""
        num_centres = int(centre[-1]) + 1
        count = torch.bincount(centre, minlength=num_centres)
        first = torch.cumsum(count, 0) - count
        num_slots = int(count.max())
        slot = torch.arange(num_slots, device=centre.device)
        # A free slot repeats the last edge; its harmonics are zeroed.
        edge_of_slot = (first.unsqueeze(1) + slot).clamp(max=centre.size(0) - 1).view(-1)
        taken = (slot < count.unsqueeze(1)).unsqueeze(2).to(self.member.dtype)
        shift = torch.arange(num_centres, device=centre.device) * num_slots - first
        slot_of_edge = torch.arange(centre.size(0), device=centre.device) + shift[centre]

        basis = self._basis(data, vectors)[edge_of_slot].view(num_centres, num_slots, -1) * taken
        norm = self._environment_norm(types[:num_centres])
        pieces = self.radial(data)
        tensor_weights = pieces[0][edge_of_slot].view(num_centres, num_slots, -1)
        edge_weights = pieces[1]
        known = pieces[2:]
        matrices: list[torch.Tensor] = []
        for layer in self.layers:
            padded = edge_weights[edge_of_slot].view(num_centres, num_slots, -1)
            matrix = layer.matrix(self._environment(padded, basis, norm))
            factor = _chain(matrices, matrix)
            matrices.append(matrix)
            scalars = self._scalars(factor, basis, tensor_weights)
            pieces = layer(known[0], scalars.view(-1, self.channels)[slot_of_edge])
            edge_weights = pieces[0]  # of the next layer; the last one has none to give
            known = _known_to_readers(known, pieces)
        return self.readout(known[0])

    def _on_edges(
        self,
        data: AtomicDataDict.Type,
        vectors: torch.Tensor,
        centre: torch.Tensor,
        types: torch.Tensor,
    ) -> torch.Tensor:
        """Energies [num_edges, 1] of edges, with a gather and a sum over edges per layer."""
        basis = self._basis(data, vectors).unsqueeze(2)  # [num_edges, i, 1]
        norm = self._environment_norm(types).unsqueeze(2)
        pieces = self.radial(data)
        tensor = self._per_component(pieces[0]) * basis  # V_0 [num_edges, i, channels]
        edge_weights = pieces[1]
        known = pieces[2:]
        matrices: list[torch.Tensor] = []
        for layer in self.layers:
            weighted = self._per_component(edge_weights) * basis
            environment = torch.zeros(
                types.size(0), basis.size(1), self.channels, dtype=basis.dtype, device=basis.device
            ).index_add(0, centre, weighted)
            matrix = layer.matrix((environment * norm).permute(2, 0, 1))
            factor = _chain(matrices, matrix).permute(1, 2, 0)  # [num_atoms, i, channels]
            matrices.append(matrix)
            scalars = (torch.index_select(factor, 0, centre) * tensor).sum(1)
            pieces = layer(known[0], scalars)
            edge_weights = pieces[0]  # of the next layer; the last one has none to give
            known = _known_to_readers(known, pieces)
        return self.readout(known[0])

    def _basis(self, data: AtomicDataDict.Type, vectors: torch.Tensor) -> torch.Tensor:
        """Harmonics [num_edges, i]; leaves the lengths in the dict."""
        length = vectors.square().sum(1, keepdim=True).sqrt()
        data[self._length] = length
        return self.harmonics((vectors / length).to(self.member.dtype))

    def _environment_norm(self, types: torch.Tensor) -> torch.Tensor:
        """n_c of the module, [1 or num_atoms, 1]."""
        norm = self.environment_norm
        return norm[types] if norm.size(0) > 1 else norm

    def _per_component(self, weights: torch.Tensor) -> torch.Tensor:
        """[num_edges, irreps * channels] to [num_edges, i, channels]."""
        by_irrep = weights.view(-1, self.num_irreps, self.channels)
        return torch.index_select(by_irrep, 1, self.irrep_of)

    def _environment(
        self, weights: torch.Tensor, basis: torch.Tensor, norm: torch.Tensor
    ) -> torch.Tensor:
        """A_l of the module, [channels, centres, j].

        Args:
            weights: [centres, slots, irreps * channels].
            basis: [centres, slots, j], zero in free slots.
            norm: [1 or centres, 1].
        """
        all_pairs = torch.bmm(weights.transpose(1, 2), basis)
        all_pairs = all_pairs.view(-1, self.num_irreps, self.channels, basis.size(2))
        own = (all_pairs * self.member.unsqueeze(1)).sum(1)  # [centres, channels, j]
        return (own * norm.unsqueeze(2)).transpose(0, 1)

    def _scalars(
        self, factor: torch.Tensor, basis: torch.Tensor, tensor_weights: torch.Tensor
    ) -> torch.Tensor:
        """V_l[..., 0] of the module, [centres, slots, channels].

        Args:
            factor: P_l, [channels, centres, i].
            basis: [centres, slots, i].
            tensor_weights: [centres, slots, irreps * channels].
        """
        by_irrep = factor.permute(1, 2, 0).unsqueeze(2) * self.member.t().unsqueeze(2)
        projected = torch.bmm(basis, by_irrep.reshape(factor.size(1), factor.size(2), -1))
        weighted = projected * tensor_weights
        return weighted.view(
            weighted.size(0), weighted.size(1), self.num_irreps, self.channels
        ).sum(2)


class EdgeListAllegro(FactoredAllegro):
    """The layout of training, which TorchScript never meets: edges in any order."""

    def _edge_energy(
        self,
        data: AtomicDataDict.Type,
        vectors: torch.Tensor,
        centre: torch.Tensor,
        types: torch.Tensor,
    ) -> torch.Tensor:
        """Energies [num_edges, 1] of edges in any order."""
        environments = Environments(centre, types.size(0), self.slices)
        basis = self._basis(data, vectors)
        norm = self._environment_norm(types).unsqueeze(2)
        pieces = self.radial(data)
        tensor_weights, edge_weights, known = pieces[0], pieces[1], pieces[2:]
        matrices: list[torch.Tensor] = []
        for layer in self.layers:
            around = environment(edge_weights, basis, environments) * norm
            matrix = layer.matrix(around.permute(2, 0, 1))
            factor = _chain(matrices, matrix).permute(1, 2, 0).contiguous()
            matrices.append(matrix)
            weighted = projection(basis, factor, environments) * tensor_weights
            scalars = weighted.view(-1, self.num_irreps, self.channels).sum(1)
            pieces = layer(known[0], scalars)
            edge_weights = pieces[0]  # of the next layer; the last one has none to give
            known = _known_to_readers(known, pieces)
        return self.readout(known[0])


def _known_to_readers(known: list[torch.Tensor], pieces: list[torch.Tensor]) -> list[torch.Tensor]:
    """What later readers of the latents have after a layer: the layer's pieces are added.

    Args:
        known: of the reader that has just read and of those to come, each [num_edges, width].
        pieces: of a layer: weights of the next layer's environment, except in the last one, then
            one piece for each reader to come.
    """
    others = known[1:]
    added = pieces[len(pieces) - len(others) :]
    return [others[reader] + piece for reader, piece in enumerate(added)]


def _chain(matrices: list[torch.Tensor], last: torch.Tensor) -> torch.Tensor:
    """P_l = M_1 … M_{l-1} M_l[..., 0] of the module, [channels, centres, i]."""
    factor = last[:, :, :, 0].unsqueeze(3)
    for back in range(len(matrices)):
        factor = torch.matmul(matrices[len(matrices) - 1 - back], factor)
    return factor.squeeze(3)


def _harmonics(embed: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    if is_plain_harmonics(embed.sh):
        return HarmonicsChain(embed.sh.irreps_out.lmax, dtype=dtype, device=device)
    return embed.sh


def _is_worth_folding(last: torch.Tensor, width: int) -> bool:
    """Whether one map to ``width`` columns has fewer products than ``last`` and a map behind it."""
    hidden, between = last.shape
    return hidden * width <= hidden * between + between * width


def _norm(module: AvgNumNeighborsNorm) -> torch.Tensor:
    return module.norm_const.detach().clone()


def _part(first: torch.Tensor | KANLayer, inputs: slice) -> torch.Tensor | KANLayer:
    return first[inputs] if isinstance(first, torch.Tensor) else part_of_layer(first, inputs)


def _module(first: torch.Tensor | KANLayer, dtype: torch.dtype) -> torch.nn.Module:
    return Linear(first.to(dtype)) if isinstance(first, torch.Tensor) else first


def _dense_weights(product: torch.nn.Module) -> torch.Tensor:
    """Weights times Wigner 3j symbols of upstream's Contracter, [channels, i, j, k] float64."""
    dense = torch.einsum(product._weight_w3j_einstr, product.weights.double(), product.w3j.double())
    if not product.path_channel_coupling:
        dense = dense.expand(product.mul, *dense.shape)
    if product.w3j_is_ij_diagonal:  # [channels, i, k]
        dense = torch.diag_embed(dense.transpose(1, 2)).permute(0, 2, 3, 1)
    return dense
