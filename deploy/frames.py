"""Inputs on which a compiled model is judged and measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ase
import numpy as np
import torch

from kan_md.model.graph import edge_graph
from kan_md.model.reference import frame_atoms
from kan_md_deploy.verify import Graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kan_md.model.checkpoint import Checkpoint

_MIN_EDGES = 16


def reference_graphs(checkpoint: Checkpoint) -> list[Graph]:
    """Inputs made of the checkpoint's reference frames.

    A frame almost without edges tests almost nothing: where there is none with more, a made-up
    crystal of all types joins.
    """
    structures = [
        frame_atoms(frame, checkpoint.type_names) for frame in checkpoint.reference_frames
    ]
    graphs = [graph_of(a, checkpoint.r_max, checkpoint.type_names) for a in structures]
    if not any(graph[0].size(0) >= _MIN_EDGES for graph in graphs):
        crystal = made_up_crystal(checkpoint.type_names, checkpoint.r_max)
        graphs.append(graph_of(crystal, checkpoint.r_max, checkpoint.type_names))
    return graphs


def graph_of(atoms: ase.Atoms, r_max: float, type_names: Sequence[str]) -> Graph:
    """The four inputs of the deployed function for one structure, all atoms local."""
    graph = edge_graph(atoms, r_max, type_names)
    return graph.edge_vectors, graph.edge_index, graph.atom_types, torch.tensor([len(atoms)])


def made_up_crystal(type_names: Sequence[str], r_max: float) -> ase.Atoms:
    """A rattled simple cubic crystal of all types, periodic, about 30 neighbours per atom."""
    count = max(3, int(np.ceil(len(type_names) ** (1 / 3))))
    spacing = 0.55 * r_max
    sites = spacing * np.stack(np.indices((count,) * 3), axis=-1).reshape(-1, 3)
    random = np.random.default_rng(0)
    symbols = [type_names[i % len(type_names)] for i in range(len(sites))]
    return ase.Atoms(
        symbols,
        positions=sites + random.normal(scale=0.04 * spacing, size=sites.shape),
        cell=[count * spacing] * 3,
        pbc=True,
    )
