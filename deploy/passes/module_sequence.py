"""Energy model made of modules that follow each other on nequip's data dictionary."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from nequip.data import AtomicDataDict


class ModuleSequence(torch.nn.Module):
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


def with_lengths(
    atoms: Mapping[str, torch.nn.Module], lengths: torch.nn.Module
) -> dict[str, torch.nn.Module]:
    """Modules that follow a fused part, and before a pair potential what it reads of the edges.

    Args:
        atoms: upstream's modules on atoms by name; a pair potential and its cutoff work on edges.
        lengths: upstream's module that writes the edges' lengths, which the fused part replaced.
    """
    found: dict[str, torch.nn.Module] = {}
    for name, part in atoms.items():
        if name in ("cutoff", "pair_potential") and "pair_lengths" not in found:
            found["pair_lengths"] = copy.deepcopy(lengths)
        found[name] = part
    return found
