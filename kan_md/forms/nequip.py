"""NequIP with convolutions of its own and each pair of atoms evaluated once.

Everything else is upstream's, called as it is.
"""

from __future__ import annotations

import torch
from e3nn.o3 import Irreps
from nequip.data import AtomicDataDict
from nequip.nn import ConvNetLayer
from nequip.nn._tp_scatter_base import TensorProductScatter

from kan_md.forms.activation import twice_differentiable
from kan_md.forms.convolutions import Convolution, Ends, knows_product
from kan_md.forms.half_edges import HalfEdges
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

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Do what upstream's sequence of modules does."""
        (energy,) = self._upstream
        one_cutoff = not any(getattr(part, "_per_edge_type", False) for part in energy.children())
        halves = HalfEdges(data, symmetric=one_cutoff)
        ends = Ends(halves.centre, halves.neighbour, AtomicDataDict.num_nodes(data))
        last, pairs = list(self._convolutions)[-1], halves.evaluated(data)
        parts = dict(energy.named_children())
        if "pair_potential" in parts:  # it sees all edges
            data = parts["edge_norm"](data)
        for name in list(parts):
            part = parts.pop(name)
            if name in self._convolutions:
                part = _with_convolution(part, self._convolutions[name], halves, ends)
            pairs = part(pairs)
            if name == last:
                break
        for field in (AtomicDataDict.NODE_FEATURES_KEY, AtomicDataDict.NODE_ATTRS_KEY):
            data[field] = pairs[field]
        for part in parts.values():
            data = part(data)
        return data


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
