"""Trained and deployed models behind one call on a structure."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from ase import Atoms

from kan_md.contract import Kind
from kan_md.errors import user_error
from kan_md.forms.choice import prefers_vectors, with_fixed_weights
from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.device import check_device
from kan_md.model.file_kind import DEPLOYED, recognise
from kan_md.model.graph import EdgeGraph, edge_graph
from kan_md.ops import is_built, operators_in_layers
from kan_md.tasks.choose import task_of_checkpoint
from kan_md.tasks.task import Task, refuse_other_kind

if TYPE_CHECKING:
    from kan_md_deploy.in_memory import InMemory
    from kan_md_deploy.runtime import DeployedModel


class Model(Protocol):
    """What says something of structures.

    Attributes:
        task: what that is.
        type_names: element symbols that it knows.
        r_max: cutoff, Å.
        edges: finds the edges of a structure for a function of edge vectors. Whoever follows one
            structure may put a :class:`kan_md.model.kept_edges.KeptEdges` there.
    """

    task: Task
    type_names: tuple[str, ...]
    r_max: float
    edges: Callable[[Atoms], EdgeGraph]

    def predict(self, atoms: Atoms) -> dict[str, np.ndarray]:
        """Evaluate a structure, see :class:`kan_md.tasks.task.Task`."""


class TrainedModel:
    """The eager model of a model.pth.

    Args:
        path: of the file.
        kind: the one kind that will do; any where ``None``.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32`` or ``float64``; the trained one where ``None``.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        kind: Kind | None = None,
        device: str = "cpu",
        dtype: str | None = None,
    ) -> None:
        checkpoint = load_checkpoint(path, wanted="usable")
        self.task = task_of_checkpoint(checkpoint)
        refuse_other_kind(path, self.task, kind)
        self.type_names = tuple(checkpoint.type_names)
        self.r_max = float(checkpoint.r_max)
        self._checkpoint, self._dtype = checkpoint, dtype or checkpoint.dtype
        self.edges = partial(edge_graph, r_max=self.r_max, type_names=self.type_names)
        self._device, model = device, checkpoint.build(dtype).to(device)
        self._model = with_fixed_weights(model)
        self._of_vectors = self.task.edge_model(self._model) if prefers_vectors(model) else None
        self._kernels = operators_in_layers if is_built() else nullcontext

    def predict(self, atoms: Atoms) -> dict[str, np.ndarray]:
        """See :class:`Model`."""
        with self._kernels():
            if self._of_vectors is None:
                return self.task.predict(self._model, atoms, r_max=self.r_max)
            graph = (*self.edges(atoms), torch.tensor([len(atoms)]))
            outputs = self._of_vectors(*(tensor.to(self._device) for tensor in graph))
            return self.task.read(outputs, graph, atoms)

    def compiled(self) -> InMemory:
        """See :func:`kan_md_deploy.in_memory.compile_in_memory`; of a potential on a processor."""
        from kan_md_deploy.in_memory import compile_in_memory

        return compile_in_memory(self._checkpoint, self._model, dtype=self._dtype)


def is_deployed(path: str | Path) -> bool:
    """Whether a file is one that `kan-md deploy` wrote."""
    return recognise(path).name in DEPLOYED


def load_model(
    path: str | Path,
    *,
    kind: Kind | None = None,
    device: str = "cpu",
    dtype: str | None = None,
) -> TrainedModel | DeployedModel:
    """Load a model.pth or a deployed file, whichever it is.

    Args:
        path: of the file.
        kind: ``potential`` or ``tensor``, where only one of them will do.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32`` or ``float64`` for a model.pth; what it was trained in where ``None``.

    Raises:
        KanMdError: the file is neither, it is damaged, of another kind, or the device is absent.
    """
    check_device(device)
    if not is_deployed(path):
        return TrainedModel(path, kind=kind, device=device, dtype=dtype)
    if dtype is not None:
        raise user_error(
            f"dtype of the deployed file {path}",
            found=dtype,
            allowed="what it was deployed with",
            remedy=f"run `kan-md deploy --dtype {dtype}`",
        )
    from kan_md_deploy.runtime import load_deployed

    return load_deployed(path, device, kind=kind)
