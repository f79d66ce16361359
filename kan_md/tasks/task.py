"""What training, deploying and evaluating ask of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import ase
import numpy as np
import torch
from nequip.nn.graph_model import GraphModel

from kan_md.contract import Backend, Kind, Manifest
from kan_md.errors import KanMdError, user_error
from kan_md.tasks.judgement import Graph, Variants, with_ghosts
from kan_md.tasks.targets import Target


class Task(Protocol):
    """Potentials or tensor models.

    Predictions are arrays by target name as extended XYZ keeps them: [num_atoms, columns] per atom,
    a number or flat components per structure, float64.

    Attributes:
        kind: of the manifest.
        targets: what the models predict and data may have labels of.
        arguments: those of the model's builder that say so, besides the common ones.
        backends: compilers that the models go through, the first one by default.
        can_be_static: whether a model can be compiled so that no shape depends on data.
        is_differentiated: whether who runs the model needs derivatives of what it predicts.
        use: where the models run, for messages.
    """

    kind: Kind
    targets: tuple[Target, ...]
    arguments: Mapping[str, Any]
    backends: tuple[Backend, ...]
    can_be_static: bool
    is_differentiated: bool
    use: str

    def check_structure(self, atoms: ase.Atoms) -> None:
        """Refuse a structure for which a target is not defined.

        Raises:
            KanMdError: it is one.
        """

    def check_labels(self, frames: Sequence[ase.Atoms]) -> None:
        """Refuse labels that no model of the task can have said.

        Raises:
            KanMdError: there is one.
        """

    def predict(
        self, model: GraphModel, atoms: ase.Atoms, *, r_max: float | None = None
    ) -> dict[str, np.ndarray]:
        """What the eager model says of a structure, by positions, not by edges.

        Args:
            model: any of this task.
            atoms: the structure.
            r_max: the model's cutoff, Å, where it is known: the model walks through its modules to
                say it.

        Raises:
            KanMdError: an element is unknown, or the structure is refused.
        """

    def reference_frames(self, model: GraphModel, frames: Iterable[ase.Atoms]) -> list[dict]:
        """Structures with what the model says, for model.pth; the model's mode is kept."""

    def edge_model(self, model: GraphModel) -> torch.nn.Module:
        """The function that is deployed: in eval mode, frozen, of the contract's four inputs."""

    def read(
        self, outputs: Sequence[torch.Tensor], graph: Graph, atoms: ase.Atoms
    ) -> dict[str, np.ndarray]:
        """Predictions from what a deployed function gave for a structure's graph."""

    def describe(self, model: GraphModel) -> dict[str, Any]:
        """Entries of the manifest that belong to the task alone."""

    def deviation(
        self,
        function: Callable,
        reference: Callable,
        graphs: Sequence[Graph],
        *,
        variants: Variants = with_ghosts,
    ) -> Any:
        """Hold one deployed function against another on variants of graphs."""

    def check(self, found: Any, *, rounding: Any, precision: str, bound: float, where: str) -> None:
        """Refuse a compiled model that is not the trained one.

        Args:
            found: deviation of the compiled model from eager float64 arithmetic.
            rounding: of the *eager* model in its dtype; where it is larger than the tolerance,
                compiling must not be blamed for it.
            precision: ``float64``, ``float32`` or ``tf32``.
            bound: error that tables were allowed to make.
            where: what was compared, for the message.

        Raises:
            KanMdError: the deviation is above the tolerance or is not a number.
        """

    def change(
        self, after: GraphModel, before: GraphModel, graphs: Sequence[Graph]
    ) -> dict[str, float]:
        """What rewriting a model changed, for the report of a pass."""

    def with_errors(self, manifest: Manifest, found: Any) -> Manifest:
        """The manifest with a deviation on the reference frames in it."""

    def summary(self, manifest: Manifest) -> dict[str, Any]:
        """What `kan-md deploy --json` says besides the common entries."""

    def rows(self, manifest: Manifest) -> list[tuple[str, str]]:
        """The same in words, with the errors."""


def refuse_other_kind(path: str | Path, task: Task, wanted: Kind | None) -> None:
    """Refuse the file of a model of another kind than is wanted.

    Raises:
        KanMdError: it is one.
    """
    if wanted not in (None, task.kind):
        raise _other_kind(path, task, wanted)


def _other_kind(path: str | Path, task: Task, wanted: Kind) -> KanMdError:
    return user_error(
        f"{path} holds another kind of model", found=task.kind, allowed=wanted, remedy=task.use
    )
