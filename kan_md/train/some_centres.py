"""A batch with some of its atoms as centres, for functions on edges: a sample is enough."""

from __future__ import annotations

import math

import torch
from nequip.data import AtomicDataDict


def with_some_centres(batch: AtomicDataDict.Type, most_edges: int) -> AtomicDataDict.Type:
    """A batch with the edges around some atoms, as many of each type as of every other.

    What a strictly local model computes on these edges stays as it is. The atoms are chosen at
    random, always the same ones: an order of atoms, such as O H H, has no say.

    Args:
        batch: of nequip.
        most_edges: about as many are left.
    """
    index = batch[AtomicDataDict.EDGE_INDEX_KEY]
    num_edges = index.shape[1]
    if num_edges <= most_edges:
        return batch
    types = batch[AtomicDataDict.ATOM_TYPE_KEY].view(-1).cpu()
    generator = torch.Generator().manual_seed(0)
    chosen = torch.zeros(len(types), dtype=torch.bool)
    for kind in types.unique():
        atoms = torch.nonzero(types == kind).view(-1)
        number = math.ceil(len(atoms) * most_edges / num_edges)
        chosen[atoms[torch.randperm(len(atoms), generator=generator)[:number]]] = True
    kept = chosen.to(index.device)[index[0]]
    changed = dict(batch)
    changed[AtomicDataDict.EDGE_INDEX_KEY] = index[:, kept]
    if AtomicDataDict.EDGE_CELL_SHIFT_KEY in batch:
        shift = batch[AtomicDataDict.EDGE_CELL_SHIFT_KEY]
        changed[AtomicDataDict.EDGE_CELL_SHIFT_KEY] = shift[kept]
    return changed
