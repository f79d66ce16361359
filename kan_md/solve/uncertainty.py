"""How sure a potential is of a prediction, from the normal equations of its readouts.

With P the regularised normal matrix of the data that the readouts were solved for, a prediction
that is dᵀc has the variance α² dᵀ P⁻¹ d: its last-layer prediction rigidity (Bigi, Chong, Ceriotti,
Grasselli, Mach. Learn.: Sci. Technol. 2024;5:045018). α², one number for energies and one for
forces, makes the mean variance that of the errors on structures that were not fitted. One model and
one matrix: no committee.
"""

from __future__ import annotations

from typing import Any

import ase
import numpy as np
import torch

from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.errors import user_error
from kan_md.model.checkpoint import Checkpoint
from kan_md.model.reference import model_input
from kan_md.ops import operators_in_layers
from kan_md.solve.memory import MEMORY_KEY, identity_of
from kan_md.solve.normal import SquareSum, Sums
from kan_md.solve.rows import RowMaker
from kan_md.solve.unknowns import Unknowns


def calibration(precision: torch.Tensor, judge: Sums, c: torch.Tensor) -> dict[str, float | None]:
    """α² of energies and forces: squared errors over raw variances, both summed over the judges.

    Args:
        precision: P, [size, size].
        judge: sums over structures that were not fitted.
        c: [size], the solution.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(precision))
    return {name: _ratio(judge[name], inverse, c) for name in ("energy", "forces")}


def _ratio(sums: SquareSum, inverse: torch.Tensor, c: torch.Tensor) -> float | None:
    error = sums.rms(c)
    raw = float((inverse * sums.matrix).sum())
    return None if error is None or raw <= 0.0 else error**2 * sums.count / raw


class Uncertainty:
    """Standard deviations of a refitted potential's predictions.

    Args:
        checkpoint: that `kan-md refit` has written.

    Raises:
        KanMdError: it has no normal equations, or its weights were changed since.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        memory: dict[str, Any] | None = checkpoint.statistics.get(MEMORY_KEY)
        if memory is None:
            raise user_error(
                "model without normal equations, which uncertainties come from",
                found=checkpoint.backbone,
                allowed=None,
                remedy="run `kan-md refit model.pth train.xyz` and give what that writes",
            )
        self._checkpoint = checkpoint
        with nequip_settings():
            model = checkpoint.build("float64").requires_grad_(False)
        unknowns = Unknowns(model, checkpoint.backbone)
        if memory["identity"] != identity_of(checkpoint, unknowns):
            raise user_error(
                "normal equations of this model",
                found="those of other weights",
                allowed=None,
                remedy="run `kan-md refit` again",
            )
        self._maker = RowMaker(model, unknowns, checkpoint.backbone)
        self._lower = torch.linalg.cholesky(memory["precision"])
        self._scale = {name: value or float("nan") for name, value in memory["alpha2"].items()}

    def __call__(self, atoms: ase.Atoms) -> dict[str, Any]:
        """Standard deviations for a structure.

        Args:
            atoms: of elements that the model knows.

        Returns:
            ``energy_std``, eV/atom; ``forces_std`` [num_atoms], eV/Å: the root of the summed
            variances of an atom's three components. NaN where no labels calibrate it.
        """
        names = self._checkpoint.type_names
        with nequip_settings(), operators_in_layers():
            rows = self._maker(model_input(atoms, float(self._checkpoint.r_max), names))
        energy = self._variance(rows.energy / len(atoms))
        forces = self._variance(rows.forces).view(-1, 3).sum(1)
        return {
            "energy_std": float((self._scale["energy"] * energy).sqrt()),
            "forces_std": np.sqrt(self._scale["forces"] * forces.numpy()),
        }

    def _variance(self, rows: torch.Tensor) -> torch.Tensor:
        """Diagonal of D P⁻¹ Dᵀ, [n], of [n, size + 1] rows."""
        whitened = torch.linalg.solve_triangular(self._lower, rows[:, :-1].T, upper=False)
        return whitened.square().sum(0)
