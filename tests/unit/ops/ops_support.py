"""Random graphs as the contract wants them."""

from __future__ import annotations

from typing import NamedTuple

import torch


class RandomGraph(NamedTuple):
    edge_vectors: torch.Tensor
    edge_index: torch.Tensor
    atom_types: torch.Tensor


def random_graph(
    num_atoms: int, num_edges: int, *, num_types: int = 2, length: float = 2.5
) -> RandomGraph:
    centre = torch.randint(num_atoms, (num_edges,)).sort().values
    neighbour = torch.randint(num_atoms, (num_edges,))
    unit = torch.nn.functional.normalize(torch.randn(num_edges, 3, dtype=torch.float64), dim=1)
    lengths = 0.4 + (length - 0.4) * torch.rand(num_edges, 1, dtype=torch.float64)
    types = torch.randint(num_types, (num_atoms,))
    return RandomGraph(unit * lengths, torch.stack([centre, neighbour]), types)


def check_reverse(operator: object, args: tuple) -> None:
    """Hold a reverse pass, which has no derivative of its own, against what it tells tracers."""
    plain = [arg.detach() if isinstance(arg, torch.Tensor) else arg for arg in args]
    torch.library.opcheck(operator.default, plain, test_utils=("test_schema", "test_faketensor"))
