"""MACE whose products of weights are made once per step, with each pair of atoms evaluated once.

    A  = W Σ_j R(r_ij) Y(r̂_ij) x_j    :mod:`kan_md.forms.convolutions`; in the first layer x_j are
                                      those of the neighbour's type, a row for each
    B  = Σ P A A A                    :mod:`kan_md.forms.contraction`
    x' = W B + W^z x

Radial networks see one edge of each pair, :mod:`kan_md.forms.half_edges`. Atoms are sorted by type,
so that what depends on the type are matrix products of blocks. Readouts are upstream's modules.

By operators the sums of the first layer are :mod:`kan_md.forms.expansion`, since all that it knows
of a neighbour is its type: x_j is multiplied into W then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from e3nn.o3 import Irrep, Irreps, TensorProduct, wigner_3j
from nequip.data import AtomicDataDict
from nequip.nn import with_edge_vectors_

from kan_md.backbones.mace_modules import (
    MACEEdgeEmbedding,
    MACELayer,
    MACENodeEmbedding,
    MACEReadout,
)
from kan_md.forms.atoms_by_type import AtomsByType
from kan_md.forms.contraction import Contraction, knows_contraction
from kan_md.forms.convolutions import Convolution, Ends, knows_product
from kan_md.forms.equivariant_weights import (
    Matrices,
    joined_by_kind,
    knows_linear,
    knows_product_with_types,
    linear_matrices,
    typed_matrices,
)
from kan_md.forms.expansion import HIGHEST_DEGREE, Neighbourhoods, expand, has_operators
from kan_md.forms.half_edges import PAIRS_KEY, HalfEdges
from kan_md.forms.harmonics import HarmonicsChain, is_plain_harmonics
from kan_md.forms.mace_radial import RadialFunctions
from kan_md.forms.radial_jets import curves_of
from kan_md.forms.radial_networks import RadialNetwork, knows_radial_network, radial_network

_TYPED_FIRST = (  # the map by type comes before the product basis, and nothing is added behind it
    "RealAgnosticInteractionBlock",
    "RealAgnosticDensityInteractionBlock",
)
_MOST_TYPES = 8
"""Of neighbours with sums of their own; with more of them these take too much memory."""
_RESIDUAL = (
    "RealAgnosticResidualInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
)


def why_not(energy: torch.nn.Module) -> str | None:
    """Why an energy model of MACE has no such form; None where it has one.

    Args:
        energy: the adapter's sequence of modules.
    """
    edges = energy.edge_embedding
    if not is_plain_harmonics(edges.spherical_harmonics):
        return "its spherical harmonics are of another kind"
    if type(edges.radial_embedding).__name__ != "RadialEmbeddingBlock":
        return "its radial embedding is of another kind"
    for layer in energy.children():
        if not isinstance(layer, MACELayer):
            continue
        interaction, product = layer.interaction, layer.product
        kind = type(interaction).__name__
        if kind not in (*_TYPED_FIRST, *_RESIDUAL):
            return f"its interactions are {kind}"
        known = (
            knows_product(interaction.conv_tp)
            and knows_product_with_types(interaction.skip_tp)
            and all(map(knows_linear, (interaction.linear_up, interaction.linear, product.linear)))
            and _has_each_irreps_once(interaction.irreps_out, product.linear.irreps_out)
            and _kinds(interaction.irreps_out) <= _kinds(interaction.conv_tp.irreps_out)
            and all(
                knows_radial_network(getattr(interaction, name))
                for name in ("conv_tp_weights", "density_fn")
                if hasattr(interaction, name)
            )
        )
        if not known:
            return "its interactions have parts of another kind"
        if not knows_contraction(product):
            return "its product basis is of a correlation beyond 3"
    return None


def _has_each_irreps_once(*several: Irreps) -> bool:
    return all(len(_kinds(irreps)) == len(irreps) for irreps in several)


def _kinds(irreps: Irreps) -> set[Irrep]:
    return {ir for _, ir in irreps}


class MACEForm(torch.nn.Module):
    """Energies of the adapter's model.

    Args:
        energy: its sequence of modules, of which :func:`why_not` knows no fault.

    Attributes:
        no_expansion: why the first layer is a convolution like the others; None where it is not.
    """

    def __init__(self, energy: torch.nn.Module):
        super().__init__()
        self._upstream = (energy,)
        self._layers: dict[str, _Layer] = {}
        self._radial = RadialFunctions(energy.edge_embedding)
        layers = {n: part for n, part in energy.named_children() if isinstance(part, MACELayer)}
        num_types = energy.node_embedding.num_types
        for name, part in layers.items():
            missing = "it is not the first" if self._layers else None
            missing = missing or why_no_expansion(part.interaction, num_types)
            if not self._layers:
                self.no_expansion = missing
            self._layers[name] = _Layer(
                part, dtype=energy.edge_embedding._dtype, is_expansion=missing is None
            )

    def pairs(self, data: AtomicDataDict.Type) -> HalfEdges:
        """Which edges are evaluated."""
        return HalfEdges(data)

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Do what the adapter's sequence of modules does."""
        (energy,) = self._upstream
        atoms = AtomsByType(data, energy.node_embedding.num_types)
        halves = data.pop(PAIRS_KEY, None) or self.pairs(data)
        edges = _Edges(data, self._radial, atoms, halves)
        features: Features | None = None
        for name, part in energy.named_children():
            if isinstance(part, MACENodeEmbedding):
                embedding = part.node_embedding(torch.eye(part.num_types).to(edges.one_hot))
                data[AtomicDataDict.NODE_ATTRS_KEY] = edges.one_hot
            elif isinstance(part, MACEEdgeEmbedding):
                pass
            elif isinstance(part, MACELayer):
                features = self._layers[name](features, embedding, edges)
                in_order = features.as_rows().index_select(0, atoms.rank)
                data[AtomicDataDict.NODE_FEATURES_KEY] = in_order
            else:
                if not isinstance(part, MACEReadout):
                    data = with_edge_vectors_(halves.complete(data), with_lengths=True)
                data = part(data)
        return data


class _Edges:
    """What all layers know of the edges.

    Attributes:
        vectors: [num_pairs, 3] float64, Å, from the centre.
        centre: [num_edges], among atoms sorted by type.
        neighbour: [num_edges].
        one_hot: [num_atoms, types], in the order of the frames.
    """

    def __init__(
        self,
        data: AtomicDataDict.Type,
        radial: RadialFunctions,
        atoms: AtomsByType,
        halves: HalfEdges,
    ):
        self.halves, self.atoms = halves, atoms
        evaluated = with_edge_vectors_(self.halves.evaluated(data), with_lengths=False)
        self.vectors = evaluated[AtomicDataDict.EDGE_VECTORS_KEY]
        types = data[AtomicDataDict.ATOM_TYPE_KEY].view(-1)
        self.one_hot = torch.nn.functional.one_hot(types, atoms.num_types).to(radial.dtype)
        index = evaluated[AtomicDataDict.EDGE_INDEX_KEY]
        self._functions = radial.of_pairs(self.one_hot, index)
        self.centre = atoms.rank.index_select(0, self.halves.centre)
        self.neighbour = atoms.rank.index_select(0, self.halves.neighbour)

    @cached_property
    def _lengths(self) -> torch.Tensor:
        return torch.linalg.norm(self.vectors, dim=1, keepdim=True)

    @cached_property
    def harmonics(self) -> torch.Tensor:
        """Those of vectors to the centre, as MACE has them, [num_edges, (l_max + 1)²]."""
        irreps, dtype = self._functions.harmonics, self.one_hot.dtype
        chain = HarmonicsChain(irreps.lmax, dtype=dtype, device=self.vectors.device)
        unit = self.vectors.to(dtype) / self._lengths.to(dtype).neg()
        return self.halves.harmonics(chain(unit), irreps)

    @cached_property
    def _radial(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self._functions(self._lengths)

    @cached_property
    def ends(self) -> Ends:
        """For convolutions."""
        return Ends(self.centre, self.neighbour, self.atoms.num_atoms)

    @cached_property
    def from_types(self) -> Ends:
        """The same where features are those of the neighbour's type."""
        types = self.atoms.types.index_select(0, self.neighbour)
        return Ends(self.centre, types, self.atoms.num_atoms, self.atoms.num_types)

    def network(self, module: torch.nn.Module) -> torch.Tensor:
        """A network of the radial functions, [num_pairs, out]."""
        return radial_network(module)(self._radial[0])

    def cut(self, x: torch.Tensor) -> torch.Tensor:
        """Times the cutoff where the radial functions do not hold it."""
        cutoff = self._radial[1]
        return x if cutoff is None else x * cutoff

    @cached_property
    def neighbourhoods(self) -> Neighbourhoods:
        """For expansions."""
        atoms = self.atoms
        return Neighbourhoods.of(
            self.centre,
            atoms.types.index_select(0, self.neighbour),
            num_atoms=atoms.num_atoms,
            num_types=atoms.num_types,
        )

    def expand(self, module: torch.nn.Module, channels: int) -> torch.Tensor:
        """Neighbourhoods in the harmonics of vectors from the centre and a network's functions.

        Args:
            module: the network, which gives all channels of one degree after the other.
            channels: of each degree.
        """
        network = radial_network(module)
        jets = self._functions.jets(self.vectors)
        values = network.of_jets(jets.radial)
        if jets.cutoff is not None:
            (w, slope), (cutoff, cutoff_slope) = values, jets.cutoff
            values = torch.stack([w * cutoff, slope * cutoff + w * cutoff_slope])

        def curves() -> torch.Tensor:
            with torch.no_grad():
                lengths = self._lengths.detach()
                return curves_of(lambda r: self._plain(r, network), lengths).unflatten(
                    1, (-1, channels)
                )

        values = values.unflatten(2, (-1, channels))
        return expand(self.vectors, values, self.neighbourhoods, curves=curves)

    def _plain(self, lengths: torch.Tensor, network: RadialNetwork) -> torch.Tensor:
        radial, cutoff = self._functions(lengths)
        x = network.plain(radial)
        return x if cutoff is None else x * cutoff


@dataclass(frozen=True)
class Features:
    """Features of atoms sorted by type.

    Attributes:
        irreps: every irrep once.
        blocks: [num_atoms, 2l+1, channels] each.
    """

    irreps: Irreps
    blocks: tuple[torch.Tensor, ...]

    def components_first(self) -> torch.Tensor:
        """[num_atoms, irreps], components before channels."""
        return torch.cat([block.flatten(1) for block in self.blocks], dim=1)

    def as_rows(self) -> torch.Tensor:
        """[num_atoms, irreps] in e3nn's layout, channels before components."""
        return torch.cat([block.transpose(1, 2).flatten(1) for block in self.blocks], dim=1)


Mapped = tuple[torch.Tensor, torch.Tensor]
"""For an irreps: [num_atoms, 2l+1, channels] and a matrix [channels, channels out]."""


class _Layer:
    """One interaction with its product basis; parameters are read at every call."""

    def __init__(self, layer: MACELayer, *, dtype: torch.dtype, is_expansion: bool):
        self.interaction, self.product = (layer.interaction,), (layer.product,)
        interaction = layer.interaction
        self.convolution = Convolution(interaction.conv_tp, dtype=dtype)
        self.contraction = Contraction(layer.product)
        self.is_typed_first = type(interaction).__name__ in _TYPED_FIRST
        self.expands = is_expansion
        if is_expansion:
            self.factors = _factors_of_degrees(interaction.conv_tp)

    def __call__(self, x: Features | None, embedding: torch.Tensor, edges: _Edges) -> Features:
        """Features of the next layer.

        Args:
            x: of the atoms; None in the first layer.
            embedding: [types, channels], the features in the first layer.
            edges: of all frames.
        """
        (interaction,), (product,) = self.interaction, self.product
        atoms = edges.atoms
        if self.expands and has_operators(edges.vectors):
            messages = self._expansion(embedding, edges)
        elif x is None:
            rows = Features(Irreps(interaction.node_feats_irreps), (embedding.unsqueeze(1),))
            messages = self._messages(rows, edges, edges.from_types)
        else:
            messages = self._messages(x, edges, edges.ends)
        a = self._mapped(messages, atoms)
        if hasattr(interaction, "density_fn"):
            a = a / (1.0 + self._density(edges)).view(-1, 1, 1)
        b = self.contraction(a, atoms.counts)
        irreps = Irreps(product.linear.irreps_out)
        blocks = torch.split(b, [ir.dim for _, ir in irreps], dim=1)
        out = _apply(linear_matrices(product.linear), blocks, irreps)
        if not self.is_typed_first and product.use_sc:
            out = self._with_skip(out, x, embedding, atoms)
        return Features(irreps, tuple(out))

    def _expansion(self, embedding: torch.Tensor, edges: _Edges) -> list[Mapped]:
        """What :meth:`_messages` gives, where the neighbours' features are those of their types."""
        (interaction,) = self.interaction
        up = linear_matrices(interaction.linear_up)
        sent = embedding @ up[0, 0]  # [types, channels]
        channels = sent.size(1)
        a = edges.expand(interaction.conv_tp_weights, channels)
        outgoing = Irreps(interaction.irreps_out)
        maps = joined_by_kind(
            linear_matrices(interaction.linear), Irreps(interaction.linear.irreps_in), outgoing
        )
        found = []
        for (_, ir), matrix in zip(outgoing, maps, strict=True):
            own = a[:, ir.l**2 : (ir.l + 1) ** 2].flatten(2)
            typed = (sent * self.factors[ir.l]).unsqueeze(2) * matrix
            found.append((own, typed.flatten(0, 1)))
        return found

    def _messages(self, x: Features, edges: _Edges, ends: Ends) -> list[Mapped]:
        """Sums of messages and the maps behind them."""
        (interaction,) = self.interaction
        w = edges.cut(edges.network(interaction.conv_tp_weights))
        up = linear_matrices(interaction.linear_up)
        irreps = Irreps(interaction.linear_up.irreps_out)
        sent = Features(irreps, tuple(_apply(up, x.blocks, irreps)))
        sums = self.convolution.sums(sent.components_first(), edges.harmonics, w, ends)
        middle = Irreps(interaction.conv_tp.irreps_out)
        pieces = [
            part.unflatten(1, (ir.dim, mul))
            for part, (mul, ir) in zip(
                torch.split(sums, [mul * ir.dim for mul, ir in middle], dim=1), middle, strict=True
            )
        ]
        outgoing = Irreps(interaction.irreps_out)
        maps = joined_by_kind(
            linear_matrices(interaction.linear), Irreps(interaction.linear.irreps_in), outgoing
        )
        found = []
        for (_, ir), matrix in zip(outgoing, maps, strict=True):
            own = [p for p, (_, kind) in zip(pieces, middle, strict=True) if kind == ir]
            found.append((torch.cat(own, dim=2), matrix))
        return found

    def _mapped(self, messages: list[Mapped], atoms: AtomsByType) -> torch.Tensor:
        """What the product basis takes, [num_atoms, components, channels]."""
        (interaction,) = self.interaction
        norm = 1.0 if hasattr(interaction, "density_fn") else float(interaction.avg_num_neighbors)
        typed = typed_matrices(interaction.skip_tp) if self.is_typed_first else None
        found = []
        for number, (part, matrix) in enumerate(messages):
            matrix = matrix / norm
            if typed is None:
                found.append((part.reshape(-1, part.size(2)) @ matrix).view(*part.shape[:2], -1))
            else:
                found.append(atoms.multiply(part, matrix @ typed[number, number]))
        return torch.cat(found, dim=1)

    def _density(self, edges: _Edges) -> torch.Tensor:
        """Σ_j tanh(network(r_ij)²), [num_atoms]."""
        (interaction,) = self.interaction
        network = edges.network(interaction.density_fn)
        shares = edges.halves.of_all(edges.cut(torch.tanh(network.square()))).view(-1)
        return shares.new_zeros(edges.atoms.num_atoms).index_add(0, edges.centre, shares)

    def _with_skip(
        self,
        out: list[torch.Tensor],
        x: Features | None,
        embedding: torch.Tensor,
        atoms: AtomsByType,
    ) -> list[torch.Tensor]:
        """Add what the types make of the features that came in."""
        (interaction,) = self.interaction
        for (source, target), matrices in typed_matrices(interaction.skip_tp).items():
            if x is None:
                rows = torch.bmm(embedding.unsqueeze(1), matrices)  # [types, 1, channels]
                added = rows.index_select(0, atoms.types)
            else:
                added = atoms.multiply(x.blocks[source], matrices)
            out[target] = out[target] + added
        return out


def why_no_expansion(interaction: torch.nn.Module, num_types: int) -> str | None:
    """Why the first layer is no :mod:`kan_md.forms.expansion`; None where it is one."""
    product = interaction.conv_tp
    harmonics = Irreps(product.irreps_in2)
    if hasattr(interaction, "density_fn"):  # these depend on the lengths by themselves
        return "its messages are divided by densities"
    if num_types > _MOST_TYPES:
        return f"it knows more than {_MOST_TYPES} types"
    if harmonics.lmax > HIGHEST_DEGREE:
        return f"its harmonics are of degrees beyond {HIGHEST_DEGREE}"
    if [ir for _, ir in Irreps(product.irreps_in1)] != [Irrep(0, 1)] or [
        path.i_in2 for path in product.instructions
    ] != list(range(len(harmonics))):
        return "its messages have other paths than one for each degree"
    return None


def _factors_of_degrees(product: TensorProduct) -> list[float]:
    """What multiplies R_l Y_l in the message of a scalar, Y_l being that of the opposite vector."""
    return [
        float(wigner_3j(0, ir.l, ir.l, dtype=torch.float64)[0, 0, 0] * path.path_weight)
        * (-1.0) ** ir.l
        for path, (_, ir) in zip(product.instructions, product.irreps_in2, strict=True)
    ]


def _apply(
    matrices: Matrices, blocks: Sequence[torch.Tensor], irreps: Irreps
) -> list[torch.Tensor]:
    """Linear maps between blocks [num_atoms, 2l+1, channels]; irreps that nothing feeds are 0."""
    out: list[torch.Tensor | None] = [None] * len(irreps)
    for (source, target), matrix in matrices.items():
        part = blocks[source]
        product = (part.reshape(-1, part.size(2)) @ matrix).view(*part.shape[:2], -1)
        out[target] = product if out[target] is None else out[target] + product
    return [
        blocks[0].new_zeros(len(blocks[0]), ir.dim, mul) if found is None else found
        for found, (mul, ir) in zip(out, irreps, strict=True)
    ]
