"""The deployed function of a tensor model: what every atom contributes, before sums over atoms.

    forward(edge_vectors, edge_index, atom_types, num_local) -> (atomic_tensors,)

    atomic_tensors [num_atoms, num_columns] float64, rows of ghosts are zero

Inputs are those of :mod:`kan_md.contract`. The manifest's ``outputs`` names the columns and says
how atoms are combined: means over a structure's atoms (acoustic sum rule, tensors per structure)
need all MPI ranks, so the caller takes them.
"""

from __future__ import annotations

import torch
from nequip.data import AtomicDataDict
from nequip.nn import GraphModel

from kan_md.backbones.etgnn import receptive_field
from kan_md.backbones.etgnn.network import ATOMIC_TENSORS_KEY, TensorNetwork
from kan_md.backbones.etgnn.spec import TensorSpec


class TensorEdgeModel(torch.nn.Module):
    """A tensor network behind the contract's inputs.

    Args:
        network: nequip module from edge vectors to atomic tensors.
    """

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network
        self._vectors = AtomicDataDict.EDGE_VECTORS_KEY
        self._index = AtomicDataDict.EDGE_INDEX_KEY
        self._types = AtomicDataDict.ATOM_TYPE_KEY
        self._counts = AtomicDataDict.NUM_LOCAL_GHOST_NODES_KEY
        self._output = ATOMIC_TENSORS_KEY

    def forward(
        self,
        edge_vectors: torch.Tensor,
        edge_index: torch.Tensor,
        atom_types: torch.Tensor,
        num_local: torch.Tensor,
    ) -> tuple[torch.Tensor]:
        """Evaluate.

        Args:
            edge_vectors: [num_edges, 3] float64, r_neighbour - r_centre, Å.
            edge_index: [2, num_edges] int64, centre and neighbour, sorted by centre.
            atom_types: [num_atoms] int64.
            num_local: [1] int64.

        Returns:
            ``atomic_tensors`` [num_atoms, num_columns] float64.
        """
        counts = torch.cat([num_local, atom_types.size(0) - num_local])
        data = {
            self._vectors: edge_vectors,
            self._index: edge_index,
            self._types: atom_types,
            self._counts: counts,
        }
        data = self.network(data)
        return (data[self._output].to(torch.float64),)


def make_tensor_edge_model(model: GraphModel) -> TensorEdgeModel:
    """Take the network out of a tensor model and freeze it behind the contract."""
    (network,) = (m for m in model.modules() if isinstance(m, TensorNetwork))
    edge_model = TensorEdgeModel(network).eval()
    edge_model.requires_grad_(False)
    return edge_model


def describe_outputs(model: GraphModel, specs: tuple[TensorSpec, ...]) -> dict:
    """The manifest's ``outputs``.

    Args:
        model: the tensor model.
        specs: its tensors in the order of the columns.

    Returns:
        ``tensors``: by name, see :meth:`TensorSpec.manifest_entry`; ``num_columns``;
        ``receptive_field`` and ``leg_r_max``, Å: ghosts out to the former matter, and of their
        neighbours those within the latter; ``isolated``: row of an atom of each type without
        neighbours.
    """
    (network,) = (m for m in model.modules() if isinstance(m, TensorNetwork))
    tensors, column = {}, 0
    for spec in specs:
        tensors[spec.name] = spec.manifest_entry(column)
        column += spec.num_components
    return {
        "tensors": tensors,
        "num_columns": column,
        "receptive_field": receptive_field(model),
        "leg_r_max": network.triplet_r_max,
        "isolated": _isolated_rows(model),
    }


def _isolated_rows(model: GraphModel) -> list[list[float]]:
    types = torch.arange(len(model.type_names))
    (rows,) = make_tensor_edge_model(model)(
        torch.zeros(0, 3, dtype=torch.float64),
        torch.zeros(2, 0, dtype=torch.int64),
        types,
        torch.tensor([len(types)]),
    )
    return rows.tolist()
