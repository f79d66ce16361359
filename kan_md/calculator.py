"""ASE calculators of trained and deployed models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from kan_md.waiting import let_threads_of_torch_wait

let_threads_of_torch_wait()  # before the next line loads torch

from kan_md.evaluate.models import load_model  # noqa: E402
from kan_md.model.cells import has_volume  # noqa: E402
from kan_md.model.checkpoint import load_checkpoint  # noqa: E402
from kan_md.solve.uncertainty import Uncertainty  # noqa: E402


class KANCalculator(Calculator):
    """Energy, forces, stress and energies per atom from a model.pth or a deployed file.

    Works with and without periodic boundaries; stress needs a cell of full rank.

        atoms.calc = KANCalculator("model.pth")

    Args:
        path: model.pth or deployed file.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32`` or ``float64`` for a model.pth; what it was trained in where None.
        uncertainty: also the standard deviations of :mod:`kan_md.solve.uncertainty`, as results
            ``energy_std`` (eV/atom) and ``forces_std`` ([num_atoms], eV/Å); of a model.pth that
            `kan-md refit` has written.

    Raises:
        KanMdError: the file cannot be used, or (at a calculation) a structure has an element that
            the model does not know.
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
    ]

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "cpu",
        dtype: str | None = None,
        uncertainty: bool = False,
        **calculator_arguments: object,
    ) -> None:
        super().__init__(**calculator_arguments)
        self.model = load_model(path, kind="potential", device=device, dtype=dtype)
        self.uncertainty = Uncertainty(load_checkpoint(path)) if uncertainty else None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate the structure; everything is computed at once."""
        super().calculate(atoms, properties, system_changes)
        if "stress" in properties and not has_volume(self.atoms):
            pbc = " ".join("FT"[int(periodic)] for periodic in self.atoms.pbc)
            raise PropertyNotImplementedError(  # what ASE expects where a property is not defined
                f"stress needs a periodic cell with a volume, got {self.atoms.cell.rank} cell "
                f"vectors and pbc {pbc}; give the structure its cell, or ask for forces alone"
            )
        found = self.model.predict(self.atoms)
        energy = float(found["energy"])
        self.results = {
            "energy": energy,
            # There is no electronic temperature: both energies are the same.
            "free_energy": energy,
            "energies": found["energies"],
            "forces": found["forces"],
        }
        if has_volume(self.atoms):
            self.results["stress"] = full_3x3_to_voigt_6_stress(found["stress"])
        if self.uncertainty is not None:
            self.results |= self.uncertainty(self.atoms)


class TensorCalculator(Calculator):
    """Tensors as results of an ASE calculator, by the names that nequip and ASE use.

        atoms.calc = TensorCalculator("model.pth")
        atoms.calc.get_property("born_effective_charges", atoms)    # [num_atoms, 3, 3], e

    Args:
        path: model.pth or deployed file.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32`` or ``float64`` for a model.pth; what it was trained in where None.

    Raises:
        KanMdError: the file cannot be used, or (at a calculation) a structure has an element that
            the model does not know.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "cpu",
        dtype: str | None = None,
        **calculator_arguments: object,
    ) -> None:
        super().__init__(**calculator_arguments)
        self.model = load_model(path, kind="tensor", device=device, dtype=dtype)
        self.implemented_properties = [target.field for target in self.model.task.targets]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = (),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Predict all tensors of the structure."""
        super().calculate(atoms, properties, system_changes)
        found = self.model.predict(self.atoms)
        for spec in self.model.task.specs:
            rows = (len(self.atoms),) if spec.per == "atom" else ()
            self.results[spec.field] = found[spec.name].reshape(*rows, *([3] * spec.rank))
