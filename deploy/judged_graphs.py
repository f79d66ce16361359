"""Inputs on which a compiled model is judged and measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ase
import numpy as np
import torch
from ase.data import covalent_radii

from kan_md.model.graph import edge_graph
from kan_md.model.reference import frame_atoms
from kan_md.tasks.judgement import Graph, isolated_atoms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kan_md.model.checkpoint import Checkpoint

_MIN_EDGES = 16
_CLOSE = 0.7
"""Distance of atoms close to each other, in sums of covalent radii: repulsions act there."""
_MOST_DIMERS = 66
"""Of all pairs of eleven types."""
_SIDE = 2
"""Atoms along an edge of their crystals: a large MACE of upstream's takes 50 MB per atom."""
_MOST_ALONE = 32
"""Types that are tried beside themselves."""
_AT_ONCE = 16
"""Isolated atoms in one graph."""
_CHOICES, _TYPES = 3, 2
"""Choices of types, and types of each, for files that make their tables when these are chosen."""


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


def judged_graphs(checkpoint: Checkpoint) -> dict[str, list[Graph]]:
    """Inputs on which a compiled model is held against the trained one, by what they are.

    Errors are relative to the largest force and energy of a group, so that those of one hide
    nothing in another. Beside the reference frames there are atoms close to each other, and a
    made-up crystal where a type is in none of the frames.
    """
    frames = reference_graphs(checkpoint)
    names, r_max = checkpoint.type_names, float(checkpoint.r_max)
    groups = {"the reference frames": frames}
    seen = {int(t) for graph in frames if graph[0].size(0) for t in graph[2]}
    if len(seen) < len(names):
        crystal = graph_of(made_up_crystal(names, r_max), r_max, names)
        groups["a made-up crystal of all types"] = [crystal]
    dimers = close_dimers(checkpoint.elements.atomic_numbers, r_max)
    if dimers[0].size(0):
        groups["atoms close to each other"] = [dimers]
    return groups


def few_types(checkpoint: Checkpoint) -> dict[str, list[Graph]]:
    """Inputs of few types each, for files that make tables of the types that they meet.

    Crystals of some choices of types, types beside themselves, and isolated atoms of all. Every
    choice takes a while; tables of types that are not tried are held to their bound when they are
    chosen.
    """
    names, r_max = checkpoint.type_names, float(checkpoint.r_max)
    numbers, count = checkpoint.elements.atomic_numbers, len(checkpoint.type_names)
    spread = [range(start, count, max(1, count // _TYPES))[:_TYPES] for start in range(_CHOICES)]
    crystals = [made_up_crystal([names[n] for n in some], r_max, side=_SIDE) for some in spread]
    groups = {"made-up crystals of few types": [graph_of(c, r_max, names) for c in crystals]}
    some = range(0, count, -(-count // _MOST_ALONE))
    alone = [(n, *close_dimers([numbers[n]], r_max)) for n in some]
    near = [
        (vectors, index, torch.full_like(types, number), num_local)
        for number, vectors, index, types, num_local in alone
        if vectors.size(0)
    ]
    if near:
        groups["atoms close to each other"] = near
    *_, last = groups.values()  # whose energies the isolated atoms' are compared to
    last += [isolated_atoms(types) for types in torch.arange(count).split(_AT_ONCE)]
    return groups


def close_dimers(atomic_numbers: Sequence[int], r_max: float) -> Graph:
    """Pairs of atoms at 0.7 times the sum of their covalent radii, far from all others.

    Args:
        atomic_numbers: of the types; all pairs of few types, every type in some pair of many.
        r_max: cutoff, Å; a pair beyond it is left out.
    """
    count = len(atomic_numbers)
    pairs = [(i, (i + step) % count) for step in range(count // 2 + 1) for i in range(count)]
    pairs = list(dict.fromkeys(tuple(sorted(pair)) for pair in pairs))[: max(_MOST_DIMERS, count)]
    radii = covalent_radii[list(atomic_numbers)]
    lengths = {pair: _CLOSE * radii[list(pair)].sum() for pair in pairs}
    pairs = [pair for pair in pairs if lengths[pair] < r_max]
    directions = np.random.default_rng(0).normal(size=(len(pairs), 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    along = directions * np.array([lengths[pair] for pair in pairs]).reshape(-1, 1)
    vectors = torch.from_numpy(np.stack([along, -along], axis=1).reshape(-1, 3))
    centres = torch.arange(2 * len(pairs))
    neighbours = centres.view(-1, 2).flip(1).flatten()
    types = torch.tensor(pairs, dtype=torch.int64).view(-1)
    return vectors, torch.stack([centres, neighbours]), types, torch.tensor([len(types)])


def graph_of(atoms: ase.Atoms, r_max: float, type_names: Sequence[str]) -> Graph:
    """The four inputs of the deployed function for one structure, all atoms local."""
    graph = edge_graph(atoms, r_max, type_names)
    return graph.edge_vectors, graph.edge_index, graph.atom_types, torch.tensor([len(atoms)])


def made_up_crystal(type_names: Sequence[str], r_max: float, *, side: int = 3) -> ase.Atoms:
    """A rattled simple cubic crystal of all types, periodic, about 30 neighbours per atom.

    Args:
        type_names: elements.
        r_max: cutoff, Å.
        side: atoms along an edge of the cell, more where there are more types.
    """
    count = max(side, int(np.ceil(len(type_names) ** (1 / 3))))
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
