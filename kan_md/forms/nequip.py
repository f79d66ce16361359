"""NequIP with its convolutions by operators; everything else is upstream's, called as it is."""

from __future__ import annotations

import torch
from nequip.data import AtomicDataDict
from nequip.nn import ConvNetLayer
from nequip.nn._tp_scatter_base import TensorProductScatter

from kan_md.forms.convolutions import Convolution, Ends, has_operators, knows_product
from kan_md.forms.replaced_module import with_module_replaced
from kan_md.ops import is_built


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
    return None if is_built() else "convolutions are faster after: kan-md build"


class NequIPForm(torch.nn.Module):
    """Energies of upstream's model; on a CPU with the operators, upstream's modules elsewhere.

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
        if not has_operators(data[AtomicDataDict.POSITIONS_KEY]):
            return energy(data)
        centre, neighbour = data[AtomicDataDict.EDGE_INDEX_KEY]
        ends = Ends(centre, neighbour, AtomicDataDict.num_nodes(data))
        for name, part in energy.named_children():
            if name in self._convolutions:
                sums = _SumsOfMessages(self._convolutions[name], ends)
                part = with_module_replaced(
                    part, "conv", with_module_replaced(part.conv, "tp_scatter", sums)
                )
            data = part(data)
        return data


class _SumsOfMessages(torch.nn.Module):
    """What stands in the place of upstream's tensor product and scatter."""

    def __init__(self, convolution: Convolution, ends: Ends):
        super().__init__()
        self.convolution, self.ends = convolution, ends

    def forward(
        self,
        x: torch.Tensor,
        edge_attr: torch.Tensor,
        edge_weight: torch.Tensor,
        edge_dst: torch.Tensor,
        edge_src: torch.Tensor,
    ) -> torch.Tensor:
        return self.convolution(x, edge_attr, edge_weight, self.ends)
