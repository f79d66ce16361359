"""Exchange of features between layers that no pass has put on operators."""

from __future__ import annotations

import torch
from nequip.data import AtomicDataDict
from nequip.nn import ConvNetLayer, GraphModel

from kan_md.backbones.mace_modules import MACELayer
from kan_md.ops import is_built, load
from kan_md.tasks.potential_function import NUM_LOCAL_KEY
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.module_sequence import ModuleSequence

_LAYERS = (ConvNetLayer, MACELayer)


class ExchangeFeatures(torch.nn.Module):
    """``kan_md::exchange`` on nequip's data dictionary, features of all atoms in and out."""

    def __init__(self):
        super().__init__()
        load()
        self._features = AtomicDataDict.NODE_FEATURES_KEY
        self._types = AtomicDataDict.ATOM_TYPE_KEY
        self._num_local = NUM_LOCAL_KEY

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Replace ``node_features`` [num_atoms, irreps] of ghosts by those of their owners."""
        x = data[self._features]
        found = torch.ops.kan_md.exchange(
            x.reshape(-1), [x.size(1)], data[self._num_local], data[self._types].view(-1)
        )
        data[self._features] = found.view(x.size())
        return data


def exchange_between_layers(model: GraphModel, context: PassContext) -> None:
    """Let upstream's layers behind the first one take ghosts' features from their owners.

    Layers on operators do by themselves; a portable file has ghosts computed.

    Args:
        model: changed in place.
        context: of the passes that came before.
    """
    energy = getattr(model.model, "func", None)  # a model of tensors has no forces
    if energy is None:
        return
    parts = dict(energy.named_children())
    layers = [name for name, part in parts.items() if isinstance(part, _LAYERS)]
    if len(layers) < 2 or context.operators == "portable" or not is_built():
        return
    found: dict[str, torch.nn.Module] = {}
    for name, part in parts.items():
        if name in layers[1:]:
            found[f"exchange_before_{name}"] = ExchangeFeatures()
        found[name] = part
    model.model.func = ModuleSequence(found)
