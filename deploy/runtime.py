"""Running a deployed file from Python, with the same four tensors that LAMMPS passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from kan_md import ops
from kan_md.contract import Manifest
from kan_md.errors import user_error
from kan_md.model.device import check_device, set_tf32
from kan_md_deploy.aotinductor import load_aotinductor
from kan_md_deploy.archive import read_manifest
from kan_md_deploy.torchscript import load_torchscript

_LOADERS = {"torchscript": load_torchscript, "aotinductor": load_aotinductor}


class DeployedModel:
    """A compiled potential and what it says of itself.

    Args:
        function: compiled forward of :mod:`kan_md.contract`.
        manifest: of the file.
        device: where the function runs.
    """

    def __init__(self, function: Callable, manifest: Manifest, *, device: str):
        self._function = function
        self.manifest = manifest
        self.device = device

    def __call__(
        self,
        edge_vectors: torch.Tensor,
        edge_index: torch.Tensor,
        atom_types: torch.Tensor,
        num_local: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluate atomic energies [num_atoms, 1] and edge forces [num_edges, 3], float64."""
        energy, edge_forces = self._function(
            edge_vectors.to(self.device, torch.float64),
            edge_index.to(self.device),
            atom_types.to(self.device),
            num_local.to(self.device),
        )
        return energy.detach(), edge_forces.detach()


def load_deployed(path: str | Path, device: str = "cpu") -> DeployedModel:
    """Load a file written by :func:`kan_md_deploy.deploy`.

    Raises:
        KanMdError: the file is missing, damaged, changed, of another kind, or its device is absent.
    """
    path = Path(path)
    manifest = read_manifest(path)
    if manifest.kind != "potential":
        raise user_error(
            f"{path} holds another kind of model",
            found=manifest.kind,
            allowed="potential",
            remedy="load it with load_deployed_tensors; in LAMMPS use `compute kanmd/tensor`",
        )
    check_device(device)
    if manifest.backend == "aotinductor" and not device.startswith(manifest.device):
        raise user_error(
            f"{path} was compiled for one device",
            found=device,
            allowed=manifest.device,
            remedy=f"run `kan-md deploy --device {device}`",
        )
    load_operators(manifest)
    set_tf32(manifest.tf32)
    return DeployedModel(_LOADERS[manifest.backend](path, device=device), manifest, device=device)


def load_operators(manifest: Manifest) -> None:
    """Load the project's operators if a file calls them.

    Raises:
        KanMdError: they were not built on this machine.
    """
    if any(report.get("operator") for report in manifest.passes.values()):
        ops.load()
