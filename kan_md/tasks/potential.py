"""Potentials: energy, forces and stress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import ase
import numpy as np
import torch
from nequip.nn.graph_model import GraphModel

from kan_md.contract import BACKENDS, Backend, Kind, Manifest
from kan_md.model.cells import has_volume
from kan_md.model.reference import evaluate, make_reference_frames
from kan_md.tasks.judgement import Graph, Variants, with_ghosts
from kan_md.tasks.potential_deviation import Deviation, check, deviation, isolated_energies
from kan_md.tasks.potential_function import make_edge_model
from kan_md.tasks.targets import POTENTIAL_TARGETS, Target


@dataclass(frozen=True)
class PotentialTask:
    """See :class:`kan_md.tasks.task.Task`. Predictions have ``energies`` [num_atoms], eV, besides
    the targets; without a volume ``stress`` is NaN.
    """

    kind: ClassVar[Kind] = "potential"
    targets: ClassVar[tuple[Target, ...]] = POTENTIAL_TARGETS
    arguments: ClassVar[Mapping[str, Any]] = {}
    backends: ClassVar[tuple[Backend, ...]] = BACKENDS
    can_be_static: ClassVar[bool] = True
    is_differentiated: ClassVar[bool] = True
    use: ClassVar[str] = (
        "potentials run through `kan-md evaluate` and KANCalculator, in LAMMPS by pair_style"
    )

    @classmethod
    def of_arguments(cls, arguments: Mapping[str, object]) -> PotentialTask:
        """All potentials have one task."""
        return cls()

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> PotentialTask:
        """Likewise."""
        return cls()

    def check_structure(self, atoms: ase.Atoms) -> None:
        """Every structure has an energy."""

    def check_labels(self, frames: Sequence[ase.Atoms]) -> None:
        """What energies, forces and stresses may be is checked where they are read."""

    def predict(
        self, model: GraphModel, atoms: ase.Atoms, *, r_max: float | None = None
    ) -> dict[str, np.ndarray]:
        """Evaluate by positions and strain."""
        frame = evaluate(model, atoms, r_max=r_max)
        return _predictions(frame["atomic_energy"], frame["forces"], frame["virial"], atoms)

    def reference_frames(self, model: GraphModel, frames: Iterable[ase.Atoms]) -> list[dict]:
        """See :class:`kan_md.model.reference.ReferenceFrame`."""
        return make_reference_frames(model, frames)

    def edge_model(self, model: GraphModel) -> torch.nn.Module:
        """See :mod:`kan_md.tasks.potential_function`."""
        return make_edge_model(model)

    def read(
        self, outputs: Sequence[torch.Tensor], graph: Graph, atoms: ase.Atoms
    ) -> dict[str, np.ndarray]:
        """Sum over edges, as LAMMPS does."""
        energies, edge_forces = (output.cpu() for output in outputs)
        vectors, index = graph[:2]
        forces = torch.zeros(len(atoms), 3, dtype=torch.float64)
        forces.index_add_(0, index[0], edge_forces)
        forces.index_add_(0, index[1], -edge_forces)  # alpha takes ten times as long
        return _predictions(energies, forces, -vectors.detach().T @ edge_forces, atoms)

    def describe(self, model: GraphModel) -> dict[str, Any]:
        """Energy of one atom of each type without neighbours, eV."""
        types = torch.arange(len(model.type_names))
        return {
            "isolated_energies": tuple(isolated_energies(make_edge_model(model), types).tolist())
        }

    def deviation(
        self,
        function: Callable,
        reference: Callable,
        graphs: Sequence[Graph],
        *,
        variants: Variants = with_ghosts,
    ) -> Deviation:
        """See :func:`kan_md.tasks.potential_deviation.deviation`."""
        return deviation(function, reference, graphs, variants=variants)

    def check(
        self, found: Deviation, *, rounding: Deviation, precision: str, bound: float, where: str
    ) -> None:
        """See :func:`kan_md.tasks.potential_deviation.check`."""
        check(found, rounding=rounding, precision=precision, bound=bound, where=where)

    def change(
        self, after: GraphModel, before: GraphModel, graphs: Sequence[Graph]
    ) -> dict[str, float]:
        """Of energies, eV/atom, and of forces, relative to the largest."""
        found = deviation(make_edge_model(after), make_edge_model(before), graphs)
        return {"energy_change": found.energy, "force_change": found.force}

    def with_errors(self, manifest: Manifest, found: Deviation) -> Manifest:
        """``energy_error`` and ``force_error``."""
        return replace(manifest, energy_error=found.energy, force_error=found.force)

    def summary(self, manifest: Manifest) -> dict[str, Any]:
        """Nothing that is not common."""
        return {}

    def rows(self, manifest: Manifest) -> list[tuple[str, str]]:
        """Both errors."""
        return [
            ("energy error", f"{manifest.energy_error:.1e} eV/atom"),
            ("force error", f"{manifest.force_error:.1e} of the largest force"),
        ]


def _predictions(
    energies: torch.Tensor, forces: torch.Tensor, virial: torch.Tensor, atoms: ase.Atoms
) -> dict[str, np.ndarray]:
    """Energies of atoms, eV, forces, eV/Å, and virial -dE/d(strain), eV, as predictions."""
    volume = atoms.get_volume() if has_volume(atoms) else np.nan
    per_atom = energies.numpy().reshape(-1)
    return {
        "energy": per_atom.sum(),
        "energies": per_atom,
        "forces": forces.numpy(),
        "stress": -(virial + virial.T).numpy() / 2 / volume,
    }
