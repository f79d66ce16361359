"""Tensor models: Born charges and other properties of atoms and structures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import ase
import numpy as np
import torch
from nequip.data import AtomicDataDict
from nequip.nn.graph_model import GraphModel

from kan_md.backbones.etgnn.output import reduce_over_atoms
from kan_md.backbones.etgnn.spec import TensorSpec, parse_tensors
from kan_md.contract import Backend, Kind, Manifest
from kan_md.model.reference import cutoff_of, model_input
from kan_md.tasks.judgement import Graph, Variants, with_ghosts
from kan_md.tasks.targets import Target
from kan_md.tasks.tensor_checks import check_cell, check_tensor_labels
from kan_md.tasks.tensor_deviation import check, tensor_deviations
from kan_md.tasks.tensor_function import describe_outputs, make_tensor_edge_model

_SPEC_KEYS = ("rank", "per", "symmetry", "reduction", "acoustic_sum_rule", "unit")


@dataclass(frozen=True)
class TensorTask:
    """See :class:`kan_md.tasks.task.Task`.

    Args:
        specs: the tensors, in the order of the columns.
    """

    specs: tuple[TensorSpec, ...]

    kind: ClassVar[Kind] = "tensor"
    backends: ClassVar[tuple[Backend, ...]] = ("torchscript",)
    can_be_static: ClassVar[bool] = False  # how many triplets there are depends on the structure
    is_differentiated: ClassVar[bool] = False
    use: ClassVar[str] = (
        "tensors run through `kan-md predict` and TensorCalculator, in LAMMPS by "
        "`compute kanmd/tensor`"
    )

    @classmethod
    def of_arguments(cls, arguments: Mapping[str, object]) -> TensorTask:
        """The tensors that a builder's arguments name."""
        return cls(parse_tensors(arguments.get("tensors")))

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> TensorTask:
        """The tensors that a file has."""
        entries = manifest.outputs["tensors"]
        names = sorted(entries, key=lambda name: entries[name]["first_column"])
        return cls(
            tuple(
                TensorSpec(name=name, **{key: entries[name][key] for key in _SPEC_KEYS})
                for name in names
            )
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """``tensors``, as plain values."""
        return {"tensors": [spec.model_dump(mode="json") for spec in self.specs]}

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """One per tensor."""
        return tuple(
            Target(
                name=spec.name,
                field=spec.field,
                per=spec.per,
                shape=spec.shape,
                unit=spec.label_unit,
                components=tuple(spec.component_names()) if spec.rank else (),
            )
            for spec in self.specs
        )

    @cached_property
    def columns(self) -> dict[str, slice]:
        """Where each tensor stands in the rows of the deployed function."""
        ends = np.cumsum([spec.num_components for spec in self.specs]).tolist()
        return {
            spec.name: slice(end - spec.num_components, end)
            for spec, end in zip(self.specs, ends, strict=True)
        }

    def check_structure(self, atoms: ase.Atoms) -> None:
        """A crystal's tensor needs a periodic cell."""
        for spec in self.specs:
            check_cell(atoms, spec)

    def check_labels(self, frames: Sequence[ase.Atoms]) -> None:
        """See :func:`kan_md.tasks.tensor_checks.check_tensor_labels`."""
        check_tensor_labels(frames, self.specs)

    def predict(
        self, model: GraphModel, atoms: ase.Atoms, *, r_max: float | None = None
    ) -> dict[str, np.ndarray]:
        """Evaluate the eager model."""
        self.check_structure(atoms)
        device = next(model.parameters()).device
        data = model_input(atoms, cutoff_of(model, r_max), model.type_names)
        with torch.no_grad():
            out = model({name: tensor.to(device) for name, tensor in data.items()})
        return {spec.name: _as_array(out[spec.field], spec) for spec in self.specs}

    def reference_frames(self, model: GraphModel, frames: Iterable[ase.Atoms]) -> list[dict]:
        """Per structure ``positions``, ``cell``, ``pbc``, ``atom_types`` as in
        :class:`kan_md.model.reference.ReferenceFrame`, and ``tensors``, flat arrays by name.
        """
        was_training = model.training
        model.eval()
        try:
            return [self._reference_frame(model, atoms) for atoms in frames]
        finally:
            model.train(was_training)

    def _reference_frame(self, model: GraphModel, atoms: ase.Atoms) -> dict:
        data = model_input(atoms, float(model.metadata["r_max"]), model.type_names)
        found = self.predict(model, atoms)
        return {
            "positions": data[AtomicDataDict.POSITIONS_KEY].clone(),
            "cell": torch.from_numpy(atoms.cell.array.copy()),
            "pbc": torch.from_numpy(atoms.pbc.copy()),
            "atom_types": data[AtomicDataDict.ATOM_TYPE_KEY],
            "tensors": {name: torch.from_numpy(array) for name, array in found.items()},
        }

    def edge_model(self, model: GraphModel) -> torch.nn.Module:
        """See :mod:`kan_md.tasks.tensor_function`."""
        return make_tensor_edge_model(model)

    def read(
        self, outputs: Sequence[torch.Tensor], graph: Graph, atoms: ase.Atoms
    ) -> dict[str, np.ndarray]:
        """Combine what atoms contribute."""
        columns = outputs[0].cpu()
        one_frame = torch.zeros(len(atoms), dtype=torch.int64)
        return {
            spec.name: _as_array(
                reduce_over_atoms(
                    columns[:, self.columns[spec.name]],
                    one_frame,
                    1,
                    per=spec.per,
                    reduction=spec.reduction,
                    acoustic_sum_rule=spec.projects,
                ),
                spec,
            )
            for spec in self.specs
        }

    def describe(self, model: GraphModel) -> dict[str, Any]:
        """``outputs``; there is no energy."""
        return {
            "isolated_energies": (0.0,) * len(model.type_names),
            "outputs": describe_outputs(model, self.specs),
        }

    def deviation(
        self,
        function: Callable,
        reference: Callable,
        graphs: Sequence[Graph],
        *,
        variants: Variants = with_ghosts,
    ) -> dict[str, float]:
        """See :func:`kan_md.tasks.tensor_deviation.tensor_deviations`."""
        return tensor_deviations(function, reference, graphs, self.columns, variants=variants)

    def check(
        self,
        found: Mapping[str, float],
        *,
        rounding: Mapping[str, float],
        precision: str,
        bound: float,
        where: str,
    ) -> None:
        """See :func:`kan_md.tasks.tensor_deviation.check`."""
        check(found, rounding=rounding, precision=precision, bound=bound, where=where)

    def change(
        self, after: GraphModel, before: GraphModel, graphs: Sequence[Graph]
    ) -> dict[str, float]:
        """Relative to the largest component of all tensors."""
        functions = make_tensor_edge_model(after), make_tensor_edge_model(before)
        found = tensor_deviations(*functions, graphs, {"all": slice(None)})
        return {"tensor_change": found["all"]}

    def with_errors(self, manifest: Manifest, found: Mapping[str, float]) -> Manifest:
        """``error`` of ``outputs``: that of the worst tensor."""
        return replace(manifest, outputs=manifest.outputs | {"error": max(found.values())})

    def summary(self, manifest: Manifest) -> dict[str, Any]:
        """The tensors and the largest error."""
        return {"tensors": manifest.outputs["tensors"], "tensor_error": manifest.outputs["error"]}

    def rows(self, manifest: Manifest) -> list[tuple[str, str]]:
        """Likewise."""
        return [
            ("tensors", ", ".join(manifest.outputs["tensors"])),
            ("error", f"{manifest.outputs['error']:.1e} of the largest component"),
        ]


def _as_array(tensor: torch.Tensor, spec: TensorSpec) -> np.ndarray:
    """A tensor of one structure as extended XYZ keeps it."""
    array = tensor.detach().to("cpu", torch.float64).reshape(-1, spec.num_components).numpy()
    return array[0] if spec.per == "structure" else array
