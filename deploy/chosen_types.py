"""Files of many elements, which make their tables when the elements of a run are chosen.

Such a file has a second method beside the contract's ``forward``::

    choose_types(types) -> error

    types   list of integers, indices into the manifest's type_names
    error   largest error of a table over the bound that it was to keep: above 1 it is refused

From then on ``forward`` takes structures of these types, or atoms of any type of which none has
neighbours. :mod:`kan_md.ops.chosen_types` makes the tables, from the same network and held to the
same bound as tables in a file.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from nequip.data import AtomicDataDict

from kan_md.tasks.potential_function import EdgeModel
from kan_md_deploy.passes.module_sequence import ModuleSequence


def types_to_choose(types: torch.Tensor, edge_index: torch.Tensor) -> set[int]:
    """Types that a structure needs; where no atom has neighbours one will do for all.

    Args:
        types: [num_atoms] of the atoms.
        edge_index: [2, num_edges].
    """
    return set(types.tolist()) if edge_index.size(1) else {0}


class SequenceOfChosen(torch.nn.Module):
    """A sequence of modules of which one makes tables of chosen types.

    Args:
        modules: by name, in order.
        name: of the one that has ``choose``.
    """

    def __init__(self, modules: Mapping[str, torch.nn.Module], name: str):
        super().__init__()
        self.present: set[int] = set()
        place = list(modules).index(name)
        items = list(modules.items())
        self.before = ModuleSequence(dict(items[:place]))
        self.chosen = modules[name]
        self.after = ModuleSequence(dict(items[place + 1 :]))

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Pass the dictionary on."""
        if not torch.jit.is_scripting():
            self.choose_present(data)
        return self.after(self.chosen(self.before(data)))

    @torch.jit.unused
    def choose_present(self, data: AtomicDataDict.Type) -> None:
        """In Python, before it is compiled, a model chooses the types that it meets."""
        types, index = data[AtomicDataDict.ATOM_TYPE_KEY], data[AtomicDataDict.EDGE_INDEX_KEY]
        present = types_to_choose(types.view(-1), index)
        if not present <= self.present:
            self.present = present
            with torch.enable_grad():
                self.choose(sorted(self.present))

    def forget(self) -> None:
        """Leave tables out of the file."""
        if self.present:
            self.choose([])
            self.present = set()

    def choose(self, types: list[int]) -> float:
        """Make the tables of some types; largest error over the bound."""
        return self.chosen.choose(types)


class EdgeModelOfChosen(EdgeModel):
    """The deployed function with the method that chooses types; see the module."""

    @torch.jit.export
    def choose_types(self, types: list[int]) -> float:
        """See the module."""
        return self.energy_model.choose(types)


def with_choice(edge_model: torch.nn.Module) -> torch.nn.Module:
    """Add the method to a model that makes tables of chosen types."""
    energy_model = getattr(edge_model, "energy_model", None)
    if not isinstance(energy_model, SequenceOfChosen):
        return edge_model
    energy_model.forget()
    return EdgeModelOfChosen(energy_model).eval()
