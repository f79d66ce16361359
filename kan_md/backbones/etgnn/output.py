"""Sums over atoms: the acoustic sum rule and tensors of whole structures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from e3nn.util.jit import compile_mode
from nequip.data import AtomicDataDict
from nequip.nn import GraphModuleMixin

from kan_md.backbones.etgnn.layers import sum_to
from kan_md.backbones.etgnn.network import ATOMIC_TENSORS_KEY
from kan_md.backbones.etgnn.spec import TensorSpec


def reduce_over_atoms(
    contributions: torch.Tensor,
    frame: torch.Tensor,
    num_frames: int,
    *,
    per: str,
    reduction: str,
    acoustic_sum_rule: bool,
) -> torch.Tensor:
    """Turn what atoms contribute into the tensor that is asked for.

    The acoustic sum rule is the orthogonal projection onto tensors whose sum over atoms vanishes:
    every atom loses the structure's mean.

    Args:
        contributions: [num_atoms, components].
        frame: [num_atoms] int64, structure of each atom.
        num_frames: number of structures.
        per: ``atom`` or ``structure``.
        reduction: ``mean`` or ``sum``, of a structure's tensor.
        acoustic_sum_rule: whether to project.

    Returns:
        [num_atoms, components] or [num_frames, components].
    """
    if per == "atom" and not acoustic_sum_rule:
        return contributions
    total = sum_to(contributions, frame, num_frames)
    if per == "structure" and reduction == "sum":
        return total
    count = torch.bincount(frame, minlength=num_frames).clamp(min=1).to(total.dtype)
    mean = total / count.unsqueeze(-1)
    if per == "structure":
        return mean
    return contributions - torch.index_select(mean, 0, frame)


@compile_mode("script")
class TensorOutput(GraphModuleMixin, torch.nn.Module):
    """Write one tensor's field from the columns of :data:`ATOMIC_TENSORS_KEY`.

    Args:
        spec: the tensor.
        first_column: where its columns start.
        irreps_in: nequip's bookkeeping.
    """

    def __init__(self, spec: TensorSpec, first_column: int, *, irreps_in: dict):
        super().__init__()
        self.field = spec.field
        self.first = first_column
        self.last = first_column + spec.num_components
        self.per = spec.per
        self.reduction = spec.reduction
        self.projects = spec.projects
        self.is_matrix = spec.rank == 2
        self._input = ATOMIC_TENSORS_KEY
        self._batch = AtomicDataDict.BATCH_KEY
        irreps = {0: "0e", 1: "1o", 2: "9x0e", 3: "27x0e"}[spec.rank]
        self._init_irreps(irreps_in=irreps_in, irreps_out={spec.field: irreps})

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """[num_atoms or num_frames, *shape], float64 so that projections are exact."""
        columns = data[self._input][:, self.first : self.last].to(torch.float64)
        if self._batch in data:
            frame = data[self._batch]
        else:
            frame = torch.zeros(columns.size(0), dtype=torch.int64, device=columns.device)
        tensor = reduce_over_atoms(
            columns,
            frame,
            AtomicDataDict.num_frames(data),
            per=self.per,
            reduction=self.reduction,
            acoustic_sum_rule=self.projects,
        )
        data[self.field] = tensor.view(-1, 3, 3) if self.is_matrix else tensor
        return data


def make_outputs(specs: Sequence[TensorSpec], irreps_in: dict) -> dict[str, TensorOutput]:
    """One output module per tensor, by field, columns in the order of ``specs``."""
    outputs: dict[str, TensorOutput] = {}
    first = 0
    for spec in specs:
        outputs[spec.field] = TensorOutput(spec, first, irreps_in=irreps_in)
        irreps_in = outputs[spec.field].irreps_out
        first += spec.num_components
    return outputs
