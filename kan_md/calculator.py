"""ASE calculator of trained and deployed potentials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from kan_md.waiting import let_threads_of_torch_wait

let_threads_of_torch_wait()  # before the next line loads torch

from kan_md.evaluate.potentials import load_potential  # noqa: E402
from kan_md.model.cells import has_volume  # noqa: E402


class KANCalculator(Calculator):
    """Energy, forces, stress and energies per atom from a model.pth or a deployed file.

    Works with and without periodic boundaries; stress needs a cell of full rank.

        atoms.calc = KANCalculator("model.pth")

    Args:
        path: model.pth or deployed file.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32`` or ``float64`` for a model.pth; what it was trained in where None.

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
        **calculator_arguments: object,
    ) -> None:
        super().__init__(**calculator_arguments)
        self.potential = load_potential(path, device=device, dtype=dtype)

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
        found = self.potential.compute(self.atoms)
        self.results = {
            "energy": found.energy,
            # There is no electronic temperature: both energies are the same.
            "free_energy": found.energy,
            "energies": found.energies,
            "forces": found.forces,
        }
        if has_volume(self.atoms):
            self.results["stress"] = found.stress(self.atoms.get_volume())
