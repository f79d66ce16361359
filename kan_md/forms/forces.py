"""Forces and stresses from the derivative by the vectors of pairs of atoms.

Upstream displaces positions and cell and differentiates through all that makes vectors of them,
twice in training. An energy is a function of the vectors r of its pairs alone, so with
g = dE/dr, r from centre c to neighbour n,

    F_c = Σ g over its pairs,  F_n = -Σ g,      dE/d(strain) = Σ r ⊗ g, its symmetric part.

These are linear in g, and their derivative by g is written out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from nequip.data import AtomicDataDict
from nequip.nn import ForceStressOutput

from kan_md.forms.half_edges import PAIRS_KEY
from kan_md.forms.replaced_module import with_module_replaced


class ForcesOfPairs(torch.nn.Module):
    """What upstream's module gives, of a form of its energy model.

    Args:
        output: upstream's module.
        energy: the form; what it finds under :data:`kan_md.forms.half_edges.PAIRS_KEY` or as edge
            vectors is what energies are differentiated by. Its attribute ``pairs`` makes the former
            of a graph; None where it wants the vectors of all edges.
    """

    def __init__(self, output: ForceStressOutput, energy: torch.nn.Module):
        super().__init__()
        self._upstream = (with_module_replaced(output, "func", energy),)
        self.func = energy
        self.training = output.training

    def forward(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Add energies, forces, and stresses where there are cells.

        Where somebody differentiates by positions himself, upstream's way is taken.
        """
        (upstream,) = self._upstream
        is_by_positions = AtomicDataDict.EDGE_VECTORS_KEY not in data and upstream.do_derivatives
        if not is_by_positions or data[AtomicDataDict.POSITIONS_KEY].requires_grad:
            return upstream(data)
        num_frames = AtomicDataDict.num_frames(data) if AtomicDataDict.BATCH_KEY in data else 1
        if AtomicDataDict.CELL_KEY in data:
            cell = data[AtomicDataDict.CELL_KEY].view(-1, 3, 3).expand(num_frames, 3, 3)
            data[AtomicDataDict.CELL_KEY] = cell
        data = sorted_by_frame(data, num_frames)
        pairs = None if self.func.pairs is None else self.func.pairs(data)
        graph = data if pairs is None else pairs.evaluated(data)
        index = graph[AtomicDataDict.EDGE_INDEX_KEY]
        counts = edges_of_frames(graph, num_frames)
        vectors = edge_vectors(graph, counts)
        if pairs is None:
            data[AtomicDataDict.EDGE_VECTORS_KEY] = vectors
        else:
            pairs.vectors, data[PAIRS_KEY] = vectors, pairs
        data = self.func(data)
        (gradient,) = torch.autograd.grad(
            [data[AtomicDataDict.TOTAL_ENERGY_KEY].sum()], [vectors], create_graph=self.training
        )
        num_atoms = AtomicDataDict.num_nodes(data)
        sums = _Sums.apply(gradient, vectors.detach(), index, counts, num_atoms)
        data[AtomicDataDict.FORCE_KEY], strain = sums
        strain = 0.5 * (strain + strain.transpose(1, 2))
        data[AtomicDataDict.VIRIAL_KEY] = -strain
        stress = strain.new_empty(0)  # as upstream has it
        if AtomicDataDict.CELL_KEY in data:
            stress = _per_volume(strain, data[AtomicDataDict.CELL_KEY])
        data[AtomicDataDict.STRESS_KEY] = stress
        return data


def sorted_by_frame(data: AtomicDataDict.Type, num_frames: int) -> AtomicDataDict.Type:
    """A graph whose edges come frame by frame, as those of a batch do."""
    if num_frames == 1:
        return data
    index = data[AtomicDataDict.EDGE_INDEX_KEY]
    frame = data[AtomicDataDict.BATCH_KEY].index_select(0, index[0])
    if bool((frame[1:] >= frame[:-1]).all()):
        return data
    order = torch.argsort(frame, stable=True)
    shift = AtomicDataDict.EDGE_CELL_SHIFT_KEY
    moved = {shift: data[shift].index_select(0, order)} if shift in data else {}
    return data | moved | {AtomicDataDict.EDGE_INDEX_KEY: index.index_select(1, order)}


def edges_of_frames(data: AtomicDataDict.Type, num_frames: int) -> list[int]:
    """Number of edges of each frame."""
    index = data[AtomicDataDict.EDGE_INDEX_KEY]
    if num_frames == 1:
        return [index.size(1)]
    frame = data[AtomicDataDict.BATCH_KEY].index_select(0, index[0])
    return torch.bincount(frame, minlength=num_frames).tolist()


@torch.no_grad()
def edge_vectors(data: AtomicDataDict.Type, counts: Sequence[int]) -> torch.Tensor:
    """Vectors [num_edges, 3] of positions and cells, Å, to differentiate by.

    They are no leaves of autograd's graph, of which nobody knows whether a reverse pass asks for
    them; see :func:`kan_md.forms.convolutions.is_asked_for`.

    Args:
        data: whose edges come frame by frame.
        counts: edges of each frame.
    """
    positions = data[AtomicDataDict.POSITIONS_KEY].detach()
    centre, neighbour = data[AtomicDataDict.EDGE_INDEX_KEY]
    vectors = positions.index_select(0, neighbour) - positions.index_select(0, centre)
    if AtomicDataDict.CELL_KEY in data:
        shifts = torch.split(data[AtomicDataDict.EDGE_CELL_SHIFT_KEY], counts)
        cells = data[AtomicDataDict.CELL_KEY].detach().view(-1, 3, 3)
        vectors += torch.cat([shift @ cell for shift, cell in zip(shifts, cells, strict=True)])
    vectors.requires_grad_()
    with torch.enable_grad():
        return vectors.view_as(vectors)


def _per_volume(strain: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
    """NaN where there is no volume."""
    a, b, c = cell.unbind(1)
    volume = (torch.linalg.cross(a, b) * c).sum(1).abs().view(-1, 1, 1)
    safe = torch.where(volume > 0, volume, 1.0)
    return torch.where(volume > 0, strain / safe, torch.nan)


class _Sums(torch.autograd.Function):
    """Forces [num_atoms, 3] and derivatives by the strain [num_frames, 3, 3] of g [pairs, 3]."""

    @staticmethod
    def forward(ctx, gradient, vectors, index, counts, num_atoms):
        ctx.given = vectors, index, counts
        forces = gradient.new_zeros(num_atoms, 3)
        forces.index_add_(0, index[0], gradient).index_add_(0, index[1], -gradient)
        frames = zip(torch.split(vectors, counts), torch.split(gradient, counts), strict=True)
        return forces, torch.stack([v.t() @ g for v, g in frames])

    @staticmethod
    def backward(ctx, forces, strain):
        vectors, (centre, neighbour), counts = ctx.given
        result = forces.index_select(0, centre) - forces.index_select(0, neighbour)
        frames = zip(torch.split(vectors, counts), strain, strict=True)
        return result + torch.cat([v @ s for v, s in frames]), None, None, None, None
