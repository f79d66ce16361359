"""Batches: every structure once, sizes within their limits, the same order for the same seed."""

from itertools import chain

import numpy as np
import pytest

from kan_md.data.batches import Batches, Share, part_of_batch

ALIKE = [100] * 23
MIXED = np.random.default_rng(0).integers(0, 900, 60).tolist()
LONELY = [0] * 7 + [500, 3]


def batches_of(epoch, num_edges, **options):
    sampler = Batches(num_edges, **options)
    sampler.set_epoch(epoch)
    return list(sampler), len(sampler)


@pytest.mark.parametrize("num_edges", [ALIKE, MIXED, LONELY])
@pytest.mark.parametrize(
    "limits",
    [
        {"batch_size": 4},
        {"batch_size": None, "batch_edges": 900},
        {"batch_size": 2, "batch_edges": 1300},
    ],
)
@pytest.mark.parametrize("seed", [None, 7])
def test_every_structure_is_in_one_batch_within_the_limits(num_edges, limits, seed):
    numbers = set()
    for epoch in range(4):
        batches, length = batches_of(epoch, num_edges, seed=seed, **limits)
        assert sorted(chain(*batches)) == list(range(len(num_edges)))
        assert all(batches) and len(batches) == length
        edges = [sum(num_edges[i] for i in batch) for batch in batches]
        assert max(edges) <= limits.get("batch_edges", np.inf)
        assert max(map(len, batches)) <= (limits["batch_size"] or np.inf)
        numbers.add(length)
    assert len(numbers) == 1  # Lightning asks for the length once


def test_batches_by_edges_are_few_and_alike():
    batches, _ = batches_of(0, MIXED, batch_size=None, batch_edges=3000, seed=1)
    edges = [sum(MIXED[i] for i in batch) for batch in batches]
    assert len(batches) <= 1.15 * sum(MIXED) / 3000 + 1
    assert min(edges) > 0.6 * max(edges)


@pytest.mark.parametrize("limits", [{"batch_size": 4}, {"batch_size": None, "batch_edges": 3000}])
def test_order_depends_on_seed_and_epoch_alone(limits):
    orders = [
        batches_of(epoch, MIXED, seed=seed, **limits)[0]
        for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert orders[0] == orders[1]
    # Other structures are together, not only in another order.
    composed = [{frozenset(batch) for batch in order} for order in orders]
    assert composed[0] != composed[2] and composed[0] != composed[3]


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_processes_share_a_batch_without_rest(processes):
    whole, _ = batches_of(2, MIXED, batch_size=5, seed=3)
    parts = [
        batches_of(2, MIXED, batch_size=5, seed=3, share=Share(rank, processes))[0]
        for rank in range(processes)
    ]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert sorted(chain(*shares)) == sorted(batch)


def test_processes_get_about_as_many_edges():
    loads = [
        sum(MIXED[i] for i in part_of_batch(range(60), MIXED, Share(rank, 4))) for rank in range(4)
    ]
    assert max(loads) - min(loads) < 0.05 * max(loads)
