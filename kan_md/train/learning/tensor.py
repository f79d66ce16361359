"""What learning tensors takes: the part that types explain, and the scale of the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ase import Atoms

from kan_md.backbones.etgnn import default_triplet_r_max
from kan_md.config.schema import DataConfig, TrainConfig
from kan_md.data.dataset import FramesDataset
from kan_md.data.label_report import source_of
from kan_md.data.tensor_statistics import tensor_doubts, tensor_statistics
from kan_md.model.checkpoint import Checkpoint
from kan_md.train.structures import Note, Parts

_STATISTICS = ("avg_num_triplets", "type_shifts", "scales")


class TensorLearning:
    """See :class:`kan_md.train.learning.Learning`."""

    weight_key: ClassVar[str] = "weight of target {}"

    def sort_out(self, parts: Parts, data: DataConfig, r_max: float) -> None:
        """Every structure is one to learn from."""

    def study(
        self, config: TrainConfig, parts: Parts, dataset: FramesDataset
    ) -> tuple[TrainConfig, dict[str, Any], list[Note]]:
        """Numbers that the model is normalised with; weights are as they are given."""
        specs, frames = config.task.specs, parts.frames["train"]
        given = config.model.hyperparameters.get("triplet_r_max")
        leg_r_max = default_triplet_r_max(config.model.r_max) if given is None else float(given)
        notes = [
            ("warning", f"{text} (first {source_of(frames[index])})")
            for text, index in tensor_doubts(dataset, specs)
        ]
        return config, tensor_statistics(dataset, specs, leg_r_max=leg_r_max), notes

    def arguments(self, statistics: Mapping[str, Any]) -> dict[str, Any]:
        """As the builder names them."""
        return {name: statistics[name] for name in _STATISTICS}

    def source_notes(
        self, config: TrainConfig, frames: Sequence[Atoms], source: Checkpoint
    ) -> list[Note]:
        """Tensors have no reference that could be another."""
        return []
