"""From labelled structures to batches of nequip's dictionaries."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from ase import Atoms
from nequip.data import AtomicDataDict, register_fields
from nequip.data.dataset import AtomicDataset

from kan_md.data.batches import Batches, Share
from kan_md.data.graph_store import GraphStore
from kan_md.model.cells import completed_cell
from kan_md.model.graph import refuse_close_atoms
from kan_md.model.reference import model_input
from kan_md.tasks.targets import STRESS, Target, label_weight

WEIGHT_PREFIX = "kan_md_weight_"
"""With a field's name: [num_frames, 1], factor of a structure's share in the loss of that field."""

WHOLE_PREFIX = "kan_md_whole_"
"""With a field's name: [], how many components of it are labelled in the batch of all processes
together, in a batch that is only a process's share."""

CLOSEST_PAIR = 0.2
"""Å; nothing that is meant to be a structure has atoms closer than this."""


class FramesDataset(AtomicDataset):
    """Labelled structures with their neighbour lists, made once and kept.

    Missing labels become NaN, which the loss leaves out.

    Args:
        frames: structures with labels.
        r_max: cutoff, Å.
        type_names: element symbols in the order of the type index.
        targets: labels to carry.
        memory: bytes that the graphs may take in memory, see
            :class:`kan_md.data.graph_store.GraphStore`.

    Raises:
        KanMdError: atoms overlap, or an element is none of ``type_names``.
    """

    def __init__(
        self,
        frames: Sequence[Atoms],
        r_max: float,
        *,
        type_names: Sequence[str],
        targets: Sequence[Target],
        memory: float = math.inf,
    ) -> None:
        super().__init__()
        register_fields(graph_fields=[WEIGHT_PREFIX + target.field for target in targets])
        # Structures of one batch need the same fields, and a stress needs a cell.
        with_cell = any(atoms.pbc.any() for atoms in frames) or STRESS in targets
        self.type_names = tuple(type_names)
        self._labels = [target.field for target in targets]
        self.data_list = GraphStore(
            (
                _with_labels(_input(atoms, r_max, type_names, with_cell), atoms, targets)
                for atoms in frames
            ),
            memory=memory,
        )

    def __len__(self) -> int:
        return len(self.data_list)

    def labelled(self, indices: Sequence[int]) -> AtomicDataDict.Type:
        """How many components of each label structures have, as :data:`WHOLE_PREFIX` has it."""
        return {
            WHOLE_PREFIX + name: torch.tensor(float(self._known[name][indices].sum())).double()
            for name in self._labels
        }

    @cached_property
    def _known(self) -> dict[str, np.ndarray]:
        """Number of labelled components of each structure, by field."""
        return {
            name: np.array([int((~value.isnan()).sum()) for value in self.data_list.field(name)])
            for name in self._labels
        }

    def _get_data_list(
        self, indices: Sequence[int] | torch.Tensor | slice
    ) -> list[AtomicDataDict.Type]:
        if isinstance(indices, slice):
            return self.data_list[indices]
        return [self.data_list[int(index)] for index in indices]

    def collate(self, graphs: list[AtomicDataDict.Type]) -> AtomicDataDict.Type:
        """Make a batch; of nothing, one that counts nowhere: a small structure without labels.

        A process without a structure of its own goes through a step with that, so that all
        processes meet in it.
        """
        if not graphs:
            smallest = min(range(len(self)), key=self.data_list.num_edges.__getitem__)
            graphs = [self[smallest]]
            for name in self._labels:
                graphs[0][name] = torch.full_like(graphs[0][name], torch.nan)
        return AtomicDataDict.batched_from_list(graphs)


def _input(
    atoms: Atoms, r_max: float, type_names: Sequence[str], with_cell: bool
) -> AtomicDataDict.Type:
    data = model_input(atoms, r_max, type_names)
    refuse_close_atoms(
        atoms,
        edge_lengths(data).square(),
        data[AtomicDataDict.EDGE_INDEX_KEY],
        closest=CLOSEST_PAIR,
    )
    if with_cell and AtomicDataDict.CELL_KEY not in data:
        # Without images the cell has no effect but as the volume of a stress that has no label.
        cell = torch.from_numpy(completed_cell(atoms)).view(1, 3, 3)
        data[AtomicDataDict.CELL_KEY] = cell
        edges = data[AtomicDataDict.EDGE_INDEX_KEY].shape[1]
        data[AtomicDataDict.EDGE_CELL_SHIFT_KEY] = torch.zeros(edges, 3, dtype=torch.float64)
    return AtomicDataDict.with_batch_(data)


def edge_lengths(data: AtomicDataDict.Type) -> torch.Tensor:
    """Distances of the pairs of one structure, [num_edges], Å."""
    positions = data[AtomicDataDict.POSITIONS_KEY]
    centre, neighbour = data[AtomicDataDict.EDGE_INDEX_KEY]
    vectors = positions[neighbour] - positions[centre]
    if AtomicDataDict.EDGE_CELL_SHIFT_KEY in data:
        cell = data[AtomicDataDict.CELL_KEY].view(3, 3)
        vectors = vectors + data[AtomicDataDict.EDGE_CELL_SHIFT_KEY] @ cell
    return vectors.norm(dim=-1)


def _with_labels(
    data: AtomicDataDict.Type, atoms: Atoms, targets: Sequence[Target]
) -> AtomicDataDict.Type:
    for target in targets:
        rows = len(atoms) if target.per == "atom" else 1
        label = target.label(atoms)
        if label is None:
            label = np.full((rows, *target.shape), np.nan)
        data[target.field] = torch.from_numpy(label.copy())
        weight = label_weight(atoms, target.name)
        data[WEIGHT_PREFIX + target.field] = torch.full((1, 1), weight, dtype=torch.float64)
    return data


class ResumableLoader(torch.utils.data.DataLoader):
    """A loader that Lightning can save in the middle of an epoch and set going again there."""

    _delivered = 0
    _skip = 0

    def state_dict(self) -> dict[str, int]:
        """Number of batches that this epoch has delivered."""
        return {"delivered": self._delivered % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next epoch start behind the batches that were delivered already."""
        self._skip = state["delivered"]

    def __iter__(self) -> Iterator[AtomicDataDict.Type]:
        skip, self._skip = self._skip, 0
        self._delivered = skip
        for whole in self.batch_sampler.whole()[skip:]:
            self._delivered += 1
            mine = self.batch_sampler.mine(whole)
            batch = self.collate_fn(self.dataset.__getitems__(mine))
            if self.batch_sampler.share.of > 1:
                batch |= self.dataset.labelled(whole)
            yield batch


def make_loader(
    dataset: FramesDataset,
    batch_size: int | None,
    *,
    batch_edges: int | None = None,
    shuffle_seed: int | None = None,
    share: Share | None = None,
) -> torch.utils.data.DataLoader:
    """Batch a dataset; in a random order per epoch if a seed is given.

    For the other arguments see :class:`kan_md.data.batches.Batches`.
    """
    batches = Batches(
        dataset.data_list.num_edges,
        batch_size=batch_size,
        batch_edges=batch_edges,
        seed=shuffle_seed,
        share=share,
    )
    loader = torch.utils.data.DataLoader if shuffle_seed is None else ResumableLoader
    return loader(dataset, batch_sampler=batches, collate_fn=dataset.collate)
