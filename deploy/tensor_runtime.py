"""Running a deployed tensor model from Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase
import numpy as np
import torch

from kan_md.backbones.etgnn.output import reduce_over_atoms
from kan_md.backbones.etgnn.spec import TensorSpec
from kan_md.contract import Manifest
from kan_md.errors import user_error
from kan_md.model.device import check_device, set_tf32
from kan_md.model.graph import edge_graph
from kan_md.model.tensors import check_structure
from kan_md_deploy.archive import read_manifest
from kan_md_deploy.runtime import load_operators
from kan_md_deploy.torchscript import load_torchscript

_SPEC_KEYS = ("rank", "per", "symmetry", "reduction", "acoustic_sum_rule", "unit")


class DeployedTensorModel:
    """A compiled tensor model and what it says of itself.

    Args:
        function: compiled forward of :mod:`kan_md_deploy.tensor_wrapper`.
        manifest: of the file.
        device: where the function runs.
    """

    def __init__(self, function: Callable, manifest: Manifest, *, device: str):
        self._function = function
        self.manifest = manifest
        self.device = device
        self.type_names = tuple(manifest.type_names)
        self.specs = tuple(
            TensorSpec(name=name, **{key: entry[key] for key in _SPEC_KEYS})
            for name, entry in sorted(
                manifest.outputs["tensors"].items(), key=lambda item: item[1]["first_column"]
            )
        )

    def __call__(
        self,
        edge_vectors: torch.Tensor,
        edge_index: torch.Tensor,
        atom_types: torch.Tensor,
        num_local: torch.Tensor,
    ) -> tuple[torch.Tensor]:
        """Evaluate ``atomic_tensors`` [num_atoms, num_columns], float64."""
        (columns,) = self._function(
            edge_vectors.to(self.device, torch.float64),
            edge_index.to(self.device),
            atom_types.to(self.device),
            num_local.to(self.device),
        )
        return (columns.detach(),)

    def predict(self, atoms: ase.Atoms) -> dict[str, np.ndarray]:
        """Tensors of a structure by name, [num_atoms, 3**rank], or [3**rank] per structure.

        Raises:
            KanMdError: an element is unknown, or there is no cell where one is needed.
        """
        check_structure(atoms, self.specs)
        graph = edge_graph(atoms, self.manifest.r_max, self.manifest.type_names)
        (columns,) = self(*graph, torch.tensor([len(atoms)]))
        columns = columns.cpu()
        return {spec.name: self._reduce(columns, spec) for spec in self.specs}

    def _reduce(self, columns: torch.Tensor, spec: TensorSpec) -> np.ndarray:
        first = self.manifest.outputs["tensors"][spec.name]["first_column"]
        tensor = reduce_over_atoms(
            columns[:, first : first + spec.num_components],
            torch.zeros(len(columns), dtype=torch.int64),
            1,
            per=spec.per,
            reduction=spec.reduction,
            acoustic_sum_rule=spec.projects,
        ).numpy()
        return tensor[0] if spec.per == "structure" else tensor


def load_deployed_tensors(path: str | Path, device: str = "cpu") -> DeployedTensorModel:
    """Load a tensor model written by :func:`kan_md_deploy.deploy`.

    Raises:
        KanMdError: the file is missing, damaged, changed, holds a potential, or its device or the
            operators that it calls are absent.
    """
    path = Path(path)
    manifest = read_manifest(path)
    if manifest.kind != "tensor":
        raise user_error(
            f"{path} holds another kind of model",
            found=manifest.kind,
            allowed="tensor",
            remedy="potentials run through `kan-md evaluate`, KANCalculator and pair_style",
        )
    check_device(device)
    load_operators(manifest)
    set_tf32(manifest.tf32)
    return DeployedTensorModel(load_torchscript(path, device=device), manifest, device=device)
