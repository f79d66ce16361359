"""What a training asks of a task besides what everyone does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ase import Atoms

from kan_md.config.schema import DataConfig, TrainConfig
from kan_md.contract import Kind
from kan_md.data.dataset import FramesDataset
from kan_md.model.checkpoint import Checkpoint
from kan_md.train.learning.potential import PotentialLearning
from kan_md.train.learning.tensor import TensorLearning
from kan_md.train.structures import Note, Parts


class Learning(Protocol):
    """Beside :class:`kan_md.tasks.task.Task`, which knows no data sets.

    Attributes:
        weight_key: where the configuration has a target's weight, with ``{}`` for its name.
    """

    weight_key: str

    def sort_out(self, parts: Parts, data: DataConfig, r_max: float) -> None:
        """Take out structures that serve another end, and say so; ``parts`` is changed."""

    def study(
        self, config: TrainConfig, parts: Parts, dataset: FramesDataset
    ) -> tuple[TrainConfig, dict[str, Any], list[Note]]:
        """Work out what follows from the training set.

        Returns:
            The configuration with numbers for what it leaves to the data, statistics, and what to
            say.

        Raises:
            KanMdError: the labels do not do.
        """

    def arguments(self, statistics: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the model's builder that these statistics stand for."""

    def source_notes(
        self, config: TrainConfig, frames: Sequence[Atoms], source: Checkpoint
    ) -> list[Note]:
        """What to say of the training set beside a model whose weights are taken over."""


_LEARNING: dict[Kind, Learning] = {"potential": PotentialLearning(), "tensor": TensorLearning()}


def learning_of(config: TrainConfig) -> Learning:
    """That of the configuration's task."""
    return _LEARNING[config.task.kind]
