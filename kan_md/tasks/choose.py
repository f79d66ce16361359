"""The task of a model, whatever tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kan_md.backbones.build import adapter_of
from kan_md.contract import Kind, Manifest
from kan_md.tasks.potential import PotentialTask
from kan_md.tasks.task import Task
from kan_md.tasks.tensor import TensorTask

if TYPE_CHECKING:
    from kan_md.model.checkpoint import Checkpoint

_TASKS: dict[Kind, type[PotentialTask | TensorTask]] = {
    "potential": PotentialTask,
    "tensor": TensorTask,
}


def task_of(backbone: str, arguments: Mapping[str, object]) -> Task:
    """The task of models of a backbone.

    Args:
        backbone: architecture.
        arguments: of its builder.

    Raises:
        KanMdError: the backbone is unknown, or the arguments ask for what there is not.
    """
    return _TASKS[adapter_of(backbone).kind].of_arguments(arguments)


def task_of_checkpoint(checkpoint: Checkpoint) -> Task:
    """The task of a trained model."""
    return task_of(checkpoint.backbone, checkpoint.config["model"])


def task_of_manifest(manifest: Manifest) -> Task:
    """The task of a deployed model."""
    return _TASKS[manifest.kind].of_manifest(manifest)
