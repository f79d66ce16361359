"""ASE calculators of trained and deployed models."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from kan_md.waiting import let_threads_of_torch_wait

let_threads_of_torch_wait()  # before the next line loads torch

from kan_md.errors import KanMdError, user_error  # noqa: E402
from kan_md.evaluate.models import Model, TrainedModel, load_model  # noqa: E402
from kan_md.model.cells import has_volume  # noqa: E402
from kan_md.model.checkpoint import load_checkpoint  # noqa: E402
from kan_md.model.kept_edges import KeptEdges  # noqa: E402
from kan_md.ops import is_built, load  # noqa: E402
from kan_md.pickled_calculator import CalculatorOfFile  # noqa: E402
from kan_md.solve.uncertainty import Uncertainty  # noqa: E402

Form = Literal["compiled", "exact"]
FORMS: tuple[str, ...] = get_args(Form)


class KANCalculator(CalculatorOfFile):
    """Energy, forces, stress and energies per atom from a model.pth or a deployed file.

    Works with and without periodic boundaries; stress needs a cell of full rank.

        atoms.calc = KANCalculator("model.pth")

    A model.pth of up to four elements is compiled as `kan-md deploy` compiles it, in a second or
    three when the calculator is made: networks of the length become tables and KANs piecewise
    polynomials, to 1e-6 of a function's range in float32 and 1e-10 in float64, and the whole is
    refused unless it is within 1e-5 (float32) or 1e-9 (float64) of the largest force and of the
    largest energy of an atom on the reference frames. It then runs as fast as the deployed file.
    ``form="exact"`` evaluates the networks themselves, to the rounding of the dtype, in two to four
    times the time; so does a model that cannot be compiled, with a warning that says why.

    Args:
        path: model.pth or deployed file.
        device: ``cpu`` or ``cuda``; a model.pth is evaluated exactly on the latter.
        dtype: ``float32`` or ``float64`` for a model.pth; what it was trained in where None.
        form: ``compiled`` or ``exact``, of a model.pth.
        uncertainty: also the standard deviations of :mod:`kan_md.solve.uncertainty`, as results
            ``energy_std`` (eV/atom) and ``forces_std`` ([num_atoms], eV/Å); of a model.pth that
            `kan-md refit` has written.

    Attributes:
        form: ``compiled`` or ``exact``.
        reason: of a model.pth, why that one, with the error found on the reference frames.

    Raises:
        KanMdError: the file cannot be used, an unknown form, operators that are built but do not
            work here, or (at a calculation) a structure has an element that the model does not
            know or atoms on one another, or energy or forces are not finite.
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
        form: Form = "compiled",
        uncertainty: bool = False,
        **calculator_arguments: object,
    ) -> None:
        if form not in FORMS:
            raise user_error(
                "form of KANCalculator",
                found=repr(form),
                allowed=", ".join(FORMS),
                remedy="leave form out",
            )
        self.model: Model = load_model(path, kind="potential", device=device, dtype=dtype)
        super().__init__(
            path,
            made_with={"device": device, "dtype": dtype, "form": form, "uncertainty": uncertainty},
            **calculator_arguments,
        )
        self.form, self.reason = self._choose_form(form, device)
        self.model.edges = KeptEdges(self.model.r_max, self.model.type_names)
        self.uncertainty = Uncertainty(load_checkpoint(path)) if uncertainty else None

    def _choose_form(self, wanted: Form, device: str) -> tuple[Form, str]:
        """Compile a trained model where that is wanted and can be done."""
        if not isinstance(self.model, TrainedModel):
            return "compiled", "a deployed file"
        if wanted == "exact":
            return "exact", "as asked for"
        if device != "cpu":
            return "exact", "on a GPU"
        if is_built():
            load()  # operators that are there and do not work are an error
        try:
            compiled = self.model.compiled()
        except KanMdError as error:
            warnings.warn(
                f"KANCalculator takes the exact form, which is slower: {error}", stacklevel=3
            )
            return "exact", str(error)
        self.model = compiled.model
        found = compiled.found
        return "compiled", (
            f"forces of the reference frames within {found.force:.1e} of the largest one, energies "
            f"within {found.energy:.1e} eV/atom"
        )

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
        if not (np.isfinite(energy) and np.isfinite(found["forces"]).all()):
            raise user_error(
                "energy and forces must be finite numbers",
                found=f"energy {energy} eV, largest force {np.abs(found['forces']).max():.3g} eV/Å",
                allowed=None,
                remedy="atoms are likely far from all training data: reduce the time step, relax "
                "first, or check the structure",
            )
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


class TensorCalculator(CalculatorOfFile):
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
        self.model = load_model(path, kind="tensor", device=device, dtype=dtype)
        super().__init__(path, made_with={"device": device, "dtype": dtype}, **calculator_arguments)
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
