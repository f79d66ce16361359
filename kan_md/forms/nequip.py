"""NequIP with convolutions of its own, each pair of atoms evaluated once, skips folded by type.

Everything else is upstream's, called as it is.
"""

from __future__ import annotations

import torch
from e3nn.o3 import FullyConnectedTensorProduct, Irreps
from nequip.data import AtomicDataDict
from nequip.nn import ConvNetLayer
from nequip.nn._tp_scatter_base import TensorProductScatter
from nequip.nn.embedding import NodeTypeEmbed

from kan_md.forms.activation import twice_differentiable
from kan_md.forms.atoms_by_type import AtomsByType
from kan_md.forms.convolutions import Convolution, Ends, knows_product
from kan_md.forms.equivariant_weights import knows_product_with_types, typed_matrices
from kan_md.forms.half_edges import PAIRS_KEY, HalfEdges
from kan_md.forms.replaced_module import with_module_replaced


def why_not(energy: torch.nn.Module) -> str | None:
    """Why an energy model has no such form; None where it has one.

    Args:
        energy: upstream's sequence of modules.
    """
    layers = [part for part in energy.children() if isinstance(part, ConvNetLayer)]
    if not layers:
        return "the faster forms are for Allegro, NequIP and MACE"
    for layer in layers:
        scatter = layer.conv.tp_scatter
        if type(scatter) is not TensorProductScatter or not knows_product(scatter.tp):
            return f"its convolution is a {type(scatter).__name__} of another kind"
    return None


class NequIPForm(torch.nn.Module):
    """Energies of upstream's model, with each pair of atoms evaluated once.

    Args:
        energy: upstream's sequence of modules, of which :func:`why_not` knows no fault.
    """

    def __init__(self, energy: torch.nn.Module):
        super().__init__()
        self._upstream = (energy,)
        self._convolutions = {
            name: Convolution(part.conv.tp_scatter.tp, dtype=part.conv.tp_scatter.model_dtype)
            for name, part in energy.named_children()
            if isinstance(part, ConvNetLayer)
        }

    def pairs(self, data: AtomicDataDict.Type) -> HalfEdges:
        """Which edges are evaluated."""
        (energy,) = self._upstream
        one_cutoff = not any(getattr(part, "_per_edge_type", False) for part in energy.children())
        return HalfEdges(data, symmetric=one_cutoff)

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Do what upstream's sequence of modules does."""
        (energy,) = self._upstream
        halves = data.pop(PAIRS_KEY, None) or self.pairs(data)
        ends = Ends(halves.centre, halves.neighbour, AtomicDataDict.num_nodes(data))
        last, pairs = list(self._convolutions)[-1], halves.evaluated(data)
        parts = dict(energy.named_children())
        atoms = None
        if _knows_only_types(parts.get("type_embed")):
            atoms = AtomsByType(data, parts["type_embed"].num_types)
        if "pair_potential" in parts:  # it sees all edges
            data = parts["edge_norm"](halves.complete(data))
        for name in list(parts):
            part = parts.pop(name)
            if name in self._convolutions:
                part = _with_convolution(part, self._convolutions[name], halves, ends)
                if atoms is not None and knows_product_with_types(part.conv.sc):
                    skip = _SkipByType(part.conv.sc, atoms)
                    part = with_module_replaced(
                        part, "conv", with_module_replaced(part.conv, "sc", skip)
                    )
            pairs = part(pairs)
            if name == last:
                break
        for field in (AtomicDataDict.NODE_FEATURES_KEY, AtomicDataDict.NODE_ATTRS_KEY):
            data[field] = pairs[field]
        for part in parts.values():
            data = part(data)
        return data


def _knows_only_types(embedding: torch.nn.Module | None) -> bool:
    """Whether an atom's attributes are those of its type."""
    return type(embedding) is NodeTypeEmbed and not embedding.do_categorical_graph_field_embed


class _SkipByType(torch.nn.Module):
    """Upstream's skip connection as a matrix for each type."""

    def __init__(self, product: FullyConnectedTensorProduct, atoms: AtomsByType):
        super().__init__()
        self._product, self.atoms = (product,), atoms

    def forward(self, x: torch.Tensor, attributes: torch.Tensor) -> torch.Tensor:
        (product,) = self._product
        rows = attributes.index_select(0, self.atoms.one_of_each())
        widths = [mul * ir.dim for mul, ir in product.irreps_in1]
        blocks = [
            part.unflatten(1, (mul, ir.dim)).transpose(1, 2)
            for part, (mul, ir) in zip(
                torch.split(x.index_select(0, self.atoms.order), widths, dim=1),
                product.irreps_in1,
                strict=True,
            )
        ]
        out = [x.new_zeros(len(x), ir.dim, mul) for mul, ir in product.irreps_out]
        for (source, target), matrices in typed_matrices(product, rows).items():
            out[target] = out[target] + self.atoms.multiply(blocks[source], matrices)
        result = torch.cat([block.transpose(1, 2).flatten(1) for block in out], dim=1)
        return result.index_select(0, self.atoms.rank)


def _with_convolution(
    layer: ConvNetLayer, convolution: Convolution, halves: HalfEdges, ends: Ends
) -> ConvNetLayer:
    """Upstream's layer with another convolution and radial network."""
    sums = _SumsOfMessages(convolution, halves, ends, layer.conv.tp_scatter.tp.irreps_in2)
    conv = with_module_replaced(layer.conv, "tp_scatter", sums)
    conv = with_module_replaced(conv, "edge_mlp", twice_differentiable(conv.edge_mlp.mlp))
    return with_module_replaced(layer, "conv", conv)


class _SumsOfMessages(torch.nn.Module):
    """What stands in the place of upstream's tensor product and scatter."""

    def __init__(self, convolution: Convolution, halves: HalfEdges, ends: Ends, harmonics: Irreps):
        super().__init__()
        self.convolution, self.halves, self.ends = convolution, halves, ends
        self.irreps = harmonics

    def forward(
        self,
        x: torch.Tensor,
        edge_attr: torch.Tensor,
        edge_weight: torch.Tensor,
        edge_dst: torch.Tensor,
        edge_src: torch.Tensor,
    ) -> torch.Tensor:
        harmonics = self.halves.harmonics(edge_attr, self.irreps)
        return self.convolution(x, harmonics, edge_weight, self.ends)
