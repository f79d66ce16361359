"""What LAMMPS needs of a strictly local model to compute it on its own neighbour list.

Such a file has a second method beside the contract's ``forward``::

    on_lists() -> (operator, weights, shape, scales, shifts)

    operator   name of an operator whose library has the same function on LAMMPS' lists
    weights    list of tensors, shape a list of integers: what ``forward`` gives to the operator
    scales     [num_types], shifts [num_types], eV: an atom's energy is scale x operator + shift

It holds no weights of its own. A reader that does not know it calls ``forward``
(pair_styles/core/local_potential.h).
"""

from __future__ import annotations

import torch
from nequip.data import AtomicDataDict
from nequip.nn import AtomwiseReduce, PerTypeScaleShift

from kan_md.tasks.potential_function import EdgeModel
from kan_md_deploy.passes.fused_local_mace import LocalMACEOnOperator
from kan_md_deploy.passes.module_sequence import ModuleSequence

_ENERGY = AtomicDataDict.PER_ATOM_ENERGY_KEY


class EdgeModelOnLists(EdgeModel):
    """The deployed function of an operator, a scale and a shift, and what it is made of.

    Args:
        energy_model: of the whole.
        operator: its part.
        scales: [num_types].
        shifts: [num_types], eV.
    """

    def __init__(
        self,
        energy_model: torch.nn.Module,
        operator: LocalMACEOnOperator,
        scales: list[float],
        shifts: list[float],
    ):
        super().__init__(energy_model)
        self.operator = operator
        self.operator_name: str = "kan_md::local_mace"
        self.scales: list[float] = scales
        self.shifts: list[float] = shifts

    @torch.jit.export
    def on_lists(self) -> tuple[str, list[torch.Tensor], list[int], list[float], list[float]]:
        """See the module."""
        weights = self.operator.constants()
        return self.operator_name, weights, self.operator.shape, self.scales, self.shifts


def with_lists(edge_model: torch.nn.Module) -> torch.nn.Module:
    """Add the method to a model that is an operator on lists, scale and shift, and nothing else."""
    energy_model = getattr(edge_model, "energy_model", None)
    if not isinstance(energy_model, ModuleSequence):
        return edge_model
    parts = list(energy_model.parts.values())
    kinds = [type(part) for part in parts if type(part) is not AtomwiseReduce]
    if kinds != [LocalMACEOnOperator, PerTypeScaleShift]:
        return edge_model
    operator, scale_shift = parts[:2]
    if not scale_shift.field == scale_shift.out_field == _ENERGY:
        return edge_model
    num_types = len(scale_shift.type_names)

    def of_types(known: bool, values: torch.Tensor, otherwise: float) -> list[float]:
        flat = values.detach().double().flatten() if known else torch.tensor([otherwise])
        return flat.expand(num_types).tolist()

    return EdgeModelOnLists(
        energy_model,
        operator,
        of_types(scale_shift.has_scales, scale_shift.scales, 1.0),
        of_types(scale_shift.has_shifts, scale_shift.shifts, 0.0),
    ).eval()
