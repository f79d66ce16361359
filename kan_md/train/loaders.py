"""Loaders of the parts of a run, as section training asks for them."""

from __future__ import annotations

import torch

from kan_md.config.schema import TrainingConfig
from kan_md.data.batches import Share
from kan_md.data.dataset import ResumableLoader, make_loader
from kan_md.data.label_report import source_of
from kan_md.errors import user_error
from kan_md.train.preparation import PreparedData


def train_loader(
    data: PreparedData, training: TrainingConfig, share: Share | None = None
) -> ResumableLoader:
    """Batches of the training set, in another order each epoch.

    Args:
        data: the run's.
        training: sizes of batches, and the seed.
        share: the process whose part of each batch is wanted; whole ones where ``None``.
    """
    return make_loader(
        data.datasets["train"],
        training.batch_size,
        batch_edges=training.batch_edges,
        shuffle_seed=training.seed,
        share=share,
    )


def check_batches(data: PreparedData, training: TrainingConfig) -> None:
    """Refuse sizes of batches in which a structure does not fit.

    Raises:
        KanMdError: with the number to set.
    """
    edges = data.datasets["train"].data_list.num_edges
    largest = max(range(len(edges)), key=edges.__getitem__)
    if training.batch_edges is not None and training.batch_edges < edges[largest]:
        raise user_error(
            "training.batch_edges",
            found=training.batch_edges,
            allowed=f">= {edges[largest]}, the edges of the largest structure, "
            f"{source_of(data.frames['train'][largest])}",
            remedy=f"set training.batch_edges: {edges[largest]}",
        )


def evaluation_loader(
    data: PreparedData, part: str, training: TrainingConfig, share: Share | None = None
) -> torch.utils.data.DataLoader:
    """Batches of a part in the order of its structures; arguments as of :func:`train_loader`."""
    largest = max(data.datasets[part].data_list.num_edges)
    limit = training.batch_edges
    return make_loader(
        data.datasets[part],
        training.val_batch_size,
        batch_edges=None if limit is None else max(limit, largest),
        share=share,
    )
