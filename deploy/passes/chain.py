"""Energy model made of modules that follow each other on nequip's data dictionary."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from nequip.data import AtomicDataDict


class Chain(torch.nn.Module):
    """Modules in sequence, without upstream's bookkeeping of irreps.

    Args:
        modules: by name, in order.
    """

    def __init__(self, modules: Mapping[str, torch.nn.Module]):
        super().__init__()
        self.parts = torch.nn.ModuleDict(modules)

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Pass the dictionary on."""
        for part in self.parts.values():
            data = part(data)
        return data
