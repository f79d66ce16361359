"""Which structures make a step: by their number, by the number of their edges, per process."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

_FEW_MORE = 50
"""A batch more per so many, each time that all structures do not fit into the batches yet."""


class Share(NamedTuple):
    """One of the processes that do a step together.

    Attributes:
        rank: its number, from 0.
        of: how many there are.
    """

    rank: int = 0
    of: int = 1


class Batches(torch.utils.data.Sampler[list[int]]):
    """Batches of an epoch, the same number in each; every structure is in one of them.

    With a seed the order is random, and depends on nothing but the seed and the epoch: Lightning
    calls ``set_epoch``, also after a restart, so a resumed run sees the structures in the order of
    the uninterrupted one.

    With ``batch_edges`` every batch has about as many edges as the others: structures in random
    order go to the batch that has fewest edges so far. Where that exceeds the limit, those with
    most edges come first, which packs closer; then only structures of about one size change places
    from epoch to epoch.

    Args:
        num_edges: of each structure.
        batch_size: most structures of a batch; no limit where ``None``.
        batch_edges: most edges of a batch, as many as the largest structure has at least; no limit
            where ``None``. One of both must be given.
        seed: of the order; that of the data where ``None``.
        share: the process whose part of every batch this is, see :func:`part_of_batch`.
    """

    def __init__(
        self,
        num_edges: Sequence[int],
        *,
        batch_size: int | None,
        batch_edges: int | None = None,
        seed: int | None = None,
        share: Share | None = None,
    ) -> None:
        assert batch_size or batch_edges
        self.num_edges = np.asarray(num_edges)
        self.batch_size = batch_size or len(num_edges)
        self.batch_edges = batch_edges
        self.seed = seed
        self.share = share or Share()
        self.epoch = 0
        assert batch_edges is None or self.num_edges.max(initial=0) <= batch_edges
        self._number = self._fewest()

    @property
    def sampler(self) -> Batches:
        """Where Lightning looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[list[int]]:
        yield from map(self.mine, self.whole())

    def mine(self, whole: Sequence[int]) -> list[int]:
        """What this process does of a batch."""
        return part_of_batch(whole, self.num_edges, self.share)

    def whole(self) -> list[list[int]]:
        """Batches of all processes together."""
        random = None if self.seed is None else np.random.default_rng([self.seed, self.epoch])
        number = len(self.num_edges)
        order = np.arange(number) if random is None else random.permutation(number)
        if self.batch_edges is None:
            size = self.batch_size
            return [order[i : i + size].tolist() for i in range(0, number, size)]
        batches = self._deal(order)
        if batches is None:
            batches = self._deal(self._largest_first(order))
        assert batches is not None, "the number of batches was chosen so that this succeeds"
        if random is None:
            return batches
        return [batches[i] for i in random.permutation(len(batches))]

    def _fewest(self) -> int:
        """Number of batches into which the structures fit."""
        number = max(1, -(-len(self.num_edges) // self.batch_size))
        if self.batch_edges is None:
            return number
        number = max(number, -(-int(self.num_edges.sum()) // self.batch_edges))
        order = self._largest_first(np.arange(len(self.num_edges)))
        while True:
            self._number = number
            if self._deal(order) is not None:
                return number
            number = min(number + max(1, number // _FEW_MORE), len(self.num_edges))

    def _largest_first(self, order: np.ndarray) -> np.ndarray:
        return order[np.argsort(-self.num_edges[order], kind="stable")]

    def _deal(self, order: np.ndarray) -> list[list[int]] | None:
        """Give each structure to the batch with fewest edges; None where one has too many then."""
        batches: list[list[int]] = [[] for _ in range(self._number)]
        # By the number of structures, too: none stays empty, even beside those without edges.
        loads = [(0, 0, index) for index in range(self._number)]
        for structure in order.tolist():
            if not loads:
                return None
            load, count, index = loads[0]
            load += int(self.num_edges[structure])
            if load > self.batch_edges:
                return None
            batches[index].append(structure)
            if count + 1 < self.batch_size:
                heapq.heapreplace(loads, (load, count + 1, index))
            else:
                heapq.heappop(loads)
        return batches


def part_of_batch(batch: Sequence[int], num_edges: Sequence[int], share: Share) -> list[int]:
    """What one process does of a batch: about as many edges as the others, each structure once.

    Args:
        batch: structures.
        num_edges: of every structure of the set.
        share: the process.

    Returns:
        In the order of the batch; nothing where there are more processes than structures.
    """
    if share.of == 1:
        return list(batch)
    loads = [(0, 0, rank) for rank in range(share.of)]
    mine = set()
    for structure in sorted(batch, key=lambda one: (-num_edges[one], one)):
        edges, number, rank = loads[0]
        heapq.heapreplace(loads, (edges + int(num_edges[structure]), number + 1, rank))
        if rank == share.rank:
            mine.add(structure)
    return [structure for structure in batch if structure in mine]
