"""The triplet list against a loop over atoms, and its limits."""

import numpy as np
import pytest
import torch
from ase import Atoms

from kan_md.backbones.etgnn.triplets import build_triplets
from kan_md.model.graph import periodic_edges


def enumerate_paths(vectors, index, leg_r_max):
    """Reference: all pairs of edges by a double loop, as a set of (near, far)."""
    found = set()
    lengths = np.linalg.norm(vectors, axis=1)
    for near in range(len(vectors)):
        for far in range(len(vectors)):
            if max(lengths[near], lengths[far]) >= leg_r_max or index[1, near] != index[0, far]:
                continue
            closed = np.linalg.norm(vectors[near] + vectors[far]) < 1e-6
            if not closed:
                found.add((near, far))
    return found


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_triplets_match_a_double_loop(crystal, order):
    edges = periodic_edges(crystal, 3.5)
    vectors, index = edges.edge_vectors, edges.edge_index
    if order == "shuffled":
        shuffle = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))
        vectors, index = vectors[shuffle], index[:, shuffle]
    near, far = build_triplets(vectors, index, len(crystal), 2.9)
    found = set(zip(near.tolist(), far.tolist(), strict=True))
    assert len(found) == len(near) > 100
    assert found == enumerate_paths(vectors.numpy(), index.numpy(), 2.9)


def test_other_images_of_the_centre_are_neighbours():
    # One atom per cell: every k is an image of i, only the path straight back is left out.
    atoms = Atoms("O", cell=[2.0, 9.0, 9.0], pbc=True)
    edges = periodic_edges(atoms, 2.5)  # two edges, to the left and to the right
    near, far = build_triplets(edges.edge_vectors, edges.edge_index, 1, 2.5)
    assert near.tolist() == far.tolist() == [0, 1]


@pytest.mark.parametrize("num_atoms", [0, 1, 2])
def test_graphs_without_triplets(num_atoms):
    index = torch.tensor([[0, 1], [1, 0]]) if num_atoms == 2 else torch.zeros(2, 0).long()
    vectors = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]])[: index.size(1)]
    near, far = build_triplets(vectors, index, num_atoms, 3.0)
    assert near.numel() == far.numel() == 0


def test_memory_is_linear_in_the_number_of_triplets(crystal):
    """Bytes that torch allocates while the list is built, per triplet, for 8 times the atoms."""

    def bytes_per_triplet(atoms):
        edges = periodic_edges(atoms, 3.2)
        with torch.profiler.profile(profile_memory=True) as profile:
            near, _ = build_triplets(edges.edge_vectors, edges.edge_index, len(atoms), 3.2)
        allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.events())
        return allocated / len(near)

    small = bytes_per_triplet(crystal)
    large = bytes_per_triplet(crystal.repeat(2))
    assert large < 1.1 * small
