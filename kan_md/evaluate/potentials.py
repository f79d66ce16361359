"""Trained and deployed potentials behind one call on a structure."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from ase import Atoms

from kan_md.errors import user_error
from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.device import check_device
from kan_md.model.file_kind import DEPLOYED, recognise
from kan_md.model.graph import edge_graph
from kan_md.model.reference import evaluate
from kan_md.model.tensors import is_tensor_backbone


class Properties(NamedTuple):
    """What a potential says of a structure, float64.

    Attributes:
        energies: [num_atoms], eV.
        forces: [num_atoms, 3], eV/Å.
        virial: [3, 3], eV, -dE/d(strain).
    """

    energies: np.ndarray
    forces: np.ndarray
    virial: np.ndarray

    @property
    def energy(self) -> float:
        """Total energy, eV."""
        return float(self.energies.sum())

    def stress(self, volume: float) -> np.ndarray:
        """ASE's stress: xx, yy, zz, yz, xz, xy in eV/Å³, positive under tension."""
        full = -(self.virial + self.virial.T) / 2 / volume
        return full[(0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]


class Potential(Protocol):
    """A function of a structure.

    Attributes:
        type_names: element symbols that it knows.
        r_max: cutoff, Å.
    """

    type_names: tuple[str, ...]
    r_max: float

    def compute(self, atoms: Atoms) -> Properties:
        """Evaluate a structure."""


class TrainedPotential:
    """The eager model of a model.pth.

    Args:
        path: of the file.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32`` or ``float64``; the trained one where None.
    """

    def __init__(self, path: str | Path, *, device: str = "cpu", dtype: str | None = None) -> None:
        checkpoint = load_checkpoint(path, wanted="usable")
        if is_tensor_backbone(checkpoint.backbone):
            raise user_error(
                f"{path} holds another kind of model",
                found="tensors",
                allowed="potential",
                remedy="use `kan-md predict`, or kan_md.evaluate.tensors.TensorCalculator",
            )
        self.type_names = tuple(checkpoint.type_names)
        self.r_max = float(checkpoint.r_max)
        self._model = checkpoint.build(dtype).to(device)

    def compute(self, atoms: Atoms) -> Properties:
        """Evaluate a structure by positions and strain."""
        frame = evaluate(self._model, atoms)
        return Properties(
            frame["atomic_energy"].numpy().reshape(-1),
            frame["forces"].numpy(),
            frame["virial"].numpy(),
        )


class DeployedPotential:
    """A compiled file.

    Args:
        path: of the file.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, path: str | Path, *, device: str = "cpu") -> None:
        from kan_md_deploy.runtime import load_deployed

        self._model = load_deployed(path, device=device)
        self.type_names = tuple(self._model.manifest.type_names)
        self.r_max = float(self._model.manifest.r_max)

    def compute(self, atoms: Atoms) -> Properties:
        """Evaluate a structure by its edges, as LAMMPS does."""
        graph = edge_graph(atoms, self.r_max, self.type_names)
        energies, edge_forces = self._model(
            graph.edge_vectors,
            graph.edge_index,
            graph.atom_types,
            torch.tensor([len(atoms)]),
        )
        edge_forces = edge_forces.cpu()
        forces = torch.zeros(len(atoms), 3, dtype=torch.float64)
        forces.index_add_(0, graph.edge_index[0], edge_forces)
        forces.index_add_(0, graph.edge_index[1], edge_forces, alpha=-1.0)
        virial = -graph.edge_vectors.detach().T @ edge_forces
        return Properties(energies.cpu().numpy().reshape(-1), forces.numpy(), virial.numpy())


def is_deployed(path: str | Path) -> bool:
    """Whether a file is one that `kan-md deploy` wrote."""
    return recognise(path).name in DEPLOYED


def load_potential(
    path: str | Path, *, device: str = "cpu", dtype: str | None = None
) -> TrainedPotential | DeployedPotential:
    """Load a model.pth or a deployed file, whichever it is.

    Raises:
        KanMdError: the file is neither, it is damaged, or the device is absent.
    """
    check_device(device)
    if is_deployed(path):
        if dtype is not None:
            raise user_error(
                f"dtype of the deployed file {path}",
                found=dtype,
                allowed="what it was deployed with",
                remedy=f"run `kan-md deploy --dtype {dtype}`",
            )
        return DeployedPotential(path, device=device)
    return TrainedPotential(path, device=device, dtype=dtype)
