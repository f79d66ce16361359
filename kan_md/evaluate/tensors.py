"""Trained and deployed tensor models behind one interface, and as an ASE calculator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from kan_md.backbones.etgnn import TensorSpec
from kan_md.errors import user_error
from kan_md.evaluate.potentials import is_deployed
from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.device import check_device
from kan_md.model.tensors import is_tensor_backbone, predict_tensors, tensors_of
from kan_md_deploy import load_deployed_tensors
from kan_md_deploy.archive import read_manifest


class TensorModel(Protocol):
    """What predicts tensors of structures."""

    specs: tuple[TensorSpec, ...]
    type_names: tuple[str, ...]

    def predict(self, atoms: Atoms) -> dict[str, np.ndarray]:
        """By name: [num_atoms, 3**rank], or [3**rank] per structure."""


class TrainedTensorModel:
    """A model.pth of tensors, evaluated eagerly.

    Args:
        path: of the file.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, path: str | Path, *, device: str = "cpu"):
        checkpoint = load_checkpoint(path, wanted="usable")
        if not is_tensor_backbone(checkpoint.backbone):
            raise user_error(
                f"{path} holds another kind of model",
                found="potential",
                allowed="tensor",
                remedy="potentials run through `kan-md evaluate` and KANCalculator",
            )
        self.specs = tensors_of(checkpoint)
        self.type_names = tuple(checkpoint.type_names)
        self._model = checkpoint.build().to(device)

    def predict(self, atoms: Atoms) -> dict[str, np.ndarray]:
        """See :class:`TensorModel`."""
        return predict_tensors(self._model, self.specs, atoms)


def load_tensors(path: str | Path, *, device: str = "cpu") -> TensorModel:
    """Load a model.pth or a deployed file of tensors, whichever it is.

    Raises:
        KanMdError: the file cannot be used, or holds a potential.
    """
    check_device(device)
    if is_deployed(path):
        return load_deployed_tensors(path, device)
    return TrainedTensorModel(path, device=device)


def holds_tensors(path: str | Path) -> bool:
    """Whether a model.pth or a deployed file predicts tensors and not an energy.

    Raises:
        KanMdError: the file cannot be read.
    """
    if is_deployed(path):
        return read_manifest(path).kind == "tensor"
    return is_tensor_backbone(load_checkpoint(path, wanted="usable").backbone)


class TensorCalculator(Calculator):
    """Tensors as results of an ASE calculator, by the names that nequip and ASE use.

        atoms.calc = TensorCalculator("model.pth")
        atoms.calc.get_property("born_effective_charges", atoms)    # [num_atoms, 3, 3], e

    Args:
        path: model.pth or deployed file.
        device: ``cpu`` or ``cuda``.

    Raises:
        KanMdError: the file cannot be used, or (at a calculation) a structure has an element that
            the model does not know.
    """

    def __init__(
        self, path: str | Path, *, device: str = "cpu", **calculator_arguments: object
    ) -> None:
        super().__init__(**calculator_arguments)
        self.tensors = load_tensors(path, device=device)
        self.implemented_properties = [spec.field for spec in self.tensors.specs]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = (),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Predict all tensors of the structure."""
        super().calculate(atoms, properties, system_changes)
        found = self.tensors.predict(self.atoms)
        for spec in self.tensors.specs:
            rows = (len(self.atoms),) if spec.per == "atom" else ()
            self.results[spec.field] = found[spec.name].reshape(*rows, *([3] * spec.rank))
