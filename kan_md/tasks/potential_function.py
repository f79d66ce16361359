"""The deployed function: atoms and edge vectors in, energies and edge forces out."""

from __future__ import annotations

import torch
from nequip.data import AtomicDataDict
from nequip.nn import GraphModel

_VECTORS = AtomicDataDict.EDGE_VECTORS_KEY
_INDEX = AtomicDataDict.EDGE_INDEX_KEY
_TYPES = AtomicDataDict.ATOM_TYPE_KEY
_ENERGY = AtomicDataDict.PER_ATOM_ENERGY_KEY
NUM_LOCAL_KEY = "num_local"
"""Number of local atoms, int64 [1], among the fields that an energy model reads."""


class EdgeModel(torch.nn.Module):
    """An energy model behind the forward of :mod:`kan_md.contract`.

    Args:
        energy_model: nequip module from a dict with edge vectors to one with atomic energies.
    """

    def __init__(self, energy_model: torch.nn.Module):
        super().__init__()
        self.energy_model = energy_model
        self._vectors = _VECTORS
        self._index = _INDEX
        self._types = _TYPES
        self._energy = _ENERGY
        self._num_local = NUM_LOCAL_KEY

    def forward(
        self,
        edge_vectors: torch.Tensor,
        edge_index: torch.Tensor,
        atom_types: torch.Tensor,
        num_local: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluate energies and their derivatives by the edge vectors.

        Args:
            edge_vectors: [num_edges, 3] float64, r_neighbour - r_centre, Å.
            edge_index: [2, num_edges] int64, centre and neighbour, sorted by centre.
            atom_types: [num_atoms] int64.
            num_local: [1] int64; only these first atoms' energies are differentiated.

        Returns:
            ``atomic_energy`` [num_atoms, 1] float64, eV, and ``edge_forces`` [num_edges, 3]
            float64, eV/Å.
        """
        vectors = edge_vectors.detach().requires_grad_(True)
        data = {
            self._vectors: vectors,
            self._index: edge_index,
            self._types: atom_types,
            self._num_local: num_local,
        }
        data = self.energy_model(data)
        energy = data[self._energy].to(torch.float64).view(-1, 1)  # [num_atoms, 1]
        owned = torch.arange(energy.size(0), device=energy.device) < num_local
        total = torch.where(owned.unsqueeze(-1), energy, torch.zeros_like(energy)).sum()
        edge_forces = torch.autograd.grad([total], [vectors])[0]
        assert edge_forces is not None  # tells TorchScript that the gradient exists
        with torch.no_grad():  # a plain detach() is lost when TorchScript freezes the module
            atomic_energy = energy.clone()
        return atomic_energy, edge_forces


def make_edge_model(model: GraphModel) -> EdgeModel:
    """Take the energy model out of a nequip potential and freeze it behind the contract.

    Args:
        model: nequip ``GraphModel`` around a ``ForceStressOutput``.

    Returns:
        The model in eval mode, without trainable parameters.
    """
    edge_model = EdgeModel(model.model.func).eval()
    edge_model.requires_grad_(False)
    return edge_model
