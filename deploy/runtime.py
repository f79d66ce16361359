"""Running a deployed file from Python, with the same four tensors that LAMMPS passes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import ase
import numpy as np
import torch

from kan_md import ops
from kan_md.contract import Kind, Manifest
from kan_md.errors import user_error
from kan_md.model.device import check_device, set_tf32
from kan_md.model.graph import edge_graph
from kan_md.tasks.choose import task_of_manifest
from kan_md.tasks.task import refuse_other_kind
from kan_md_deploy.aotinductor import load_aotinductor
from kan_md_deploy.archive import read_manifest
from kan_md_deploy.chosen_types import types_to_choose
from kan_md_deploy.torchscript import load_torchscript

_LOADERS = {"torchscript": load_torchscript, "aotinductor": load_aotinductor}


class DeployedModel:
    """A compiled model and what it says of itself.

    Args:
        function: compiled forward of :mod:`kan_md.contract`, or of
            :mod:`kan_md.tasks.tensor_function`.
        manifest: of the file.
        device: where the function runs.

    Attributes:
        task: what the model predicts.
        type_names: elements that it knows.
        r_max: cutoff, Å.
        edges: finds the edges of a structure, see :class:`kan_md.evaluate.models.Model`.
    """

    def __init__(self, function: Callable, manifest: Manifest, *, device: str):
        self._function = function
        self._choose = getattr(function, "choose_types", None)
        self._chosen: frozenset[int] = frozenset()
        self.manifest = manifest
        self.device = device
        self.task = task_of_manifest(manifest)
        self.type_names = tuple(manifest.type_names)
        self.r_max = float(manifest.r_max)
        self.edges = partial(edge_graph, r_max=self.r_max, type_names=self.type_names)

    def __call__(
        self,
        edge_vectors: torch.Tensor,
        edge_index: torch.Tensor,
        atom_types: torch.Tensor,
        num_local: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Evaluate, float64.

        Returns:
            Of a potential atomic energies [num_atoms, 1] and edge forces [num_edges, 3]; of a
            tensor model ``atomic_tensors`` [num_atoms, num_columns].
        """
        if len(atom_types) == 0:
            # Upstream's symmetric contraction takes no atoms: ask for one, and leave it out.
            alone = self(edge_vectors, edge_index, atom_types.new_zeros(1), num_local)
            return tuple(output[:0] for output in alone)
        if self._choose is not None and (edge_index.size(1) or not self._chosen):
            self._choose_types(types_to_choose(atom_types, edge_index))
        outputs = self._function(
            edge_vectors.to(self.device, torch.float64),
            edge_index.to(self.device),
            atom_types.to(self.device),
            num_local.to(self.device),
        )
        return tuple(output.detach() for output in outputs)

    def _choose_types(self, wanted: set[int]) -> None:
        """Let a file of many elements make the tables of some types, unless it has them."""
        if wanted <= self._chosen:
            return
        error = self._choose(sorted(wanted))
        if not error <= 1.0:
            raise user_error(
                "tables of " + " ".join(self.type_names[number] for number in sorted(wanted)),
                found=f"errors of {error:.1f} times the bound",
                allowed="up to 1",
                remedy="deploy with a larger --bound",
            )
        self._chosen = frozenset(wanted)

    def predict(self, atoms: ase.Atoms) -> dict[str, np.ndarray]:
        """Evaluate a structure, see :class:`kan_md.tasks.task.Task`.

        Raises:
            KanMdError: an element is unknown, or there is no cell where one is needed.
        """
        self.task.check_structure(atoms)
        graph = (*self.edges(atoms), torch.tensor([len(atoms)]))
        return self.task.read(self(*graph), graph, atoms)


def load_deployed(
    path: str | Path, device: str = "cpu", *, kind: Kind | None = None
) -> DeployedModel:
    """Load a file written by :func:`kan_md_deploy.deploy`.

    Args:
        path: of the file.
        device: ``cpu`` or ``cuda``.
        kind: the one kind that will do; any where ``None``.

    Raises:
        KanMdError: the file is missing, damaged, changed, of another kind, or its device or the
            operators that it calls are absent.
    """
    path = Path(path)
    manifest = read_manifest(path)
    refuse_other_kind(path, task_of_manifest(manifest), kind)
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
        KanMdError: they were not built on this machine, or the library lacks one of them.
    """
    called = manifest.operators
    if called is None:  # a file of before, whose passes name one operator each
        reports = manifest.passes.values()
        called = tuple(report["operator"] for report in reports if report.get("operator"))
    if called:
        ops.load()
        ops.require(called)
