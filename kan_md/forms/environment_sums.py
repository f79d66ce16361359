"""Sums over the edges around each centre, and their derivatives of any order, by each other.

With weights w[e,l,u], harmonics Y[e,i] of degree l(i) and a field A[n,i,u] on centres n(e), all
that Allegro needs on edges are the derivatives of one form that is linear in each of the three,

    T = Σ_e Σ_i Σ_u w[e,l(i),u] Y[e,i] A[n(e),i,u]:

    environment  ∂T/∂A[n,i,u] = Σ_{e around n} w[e,l(i),u] Y[e,i]
    projection   ∂T/∂w[e,l,u] = Σ_{i of l} Y[e,i] A[n(e),i,u]
    ∂T/∂Y[e,i]                = Σ_u w[e,l(i),u] A[n(e),i,u]

The derivatives of each of them are the others with another argument, so nothing of the size edges ×
components × channels is ever made or kept, whatever is differentiated.
"""

from __future__ import annotations

from functools import cached_property

import torch

from kan_md.ops import function_sums


class Environments:
    """Which edges are around which centre, and the degrees of harmonics.

    In plain torch edges are padded per centre to the largest count, so that each sum is a batched
    product; the C++ operators walk through the edges.

    Args:
        centre: [num_edges], in any order.
        num_atoms: of all frames.
        slices: components of each degree.
    """

    def __init__(self, centre: torch.Tensor, num_atoms: int, slices: list[slice]):
        self.slices = slices
        self.num_atoms = num_atoms
        self.count = torch.bincount(centre, minlength=num_atoms)
        self.order = torch.argsort(centre, stable=True)
        self.first = torch.nn.functional.pad(torch.cumsum(self.count, 0), (1, 0))
        self._centre = centre

    @cached_property
    def num_slots(self) -> int:
        """Edges of the centre that has most."""
        return int(self.count.max()) if self.order.numel() else 0

    @cached_property
    def degree(self) -> torch.Tensor:
        """[components], number of the degree of each."""
        sizes = torch.tensor([own.stop - own.start for own in self.slices])
        return torch.arange(len(self.slices)).repeat_interleave(sizes)

    @cached_property
    def _slot_of_edge(self) -> torch.Tensor:
        centre = self._centre[self.order]
        number = torch.arange(centre.numel(), device=centre.device)
        slot = centre * self.num_slots + number - self.first[centre]
        return torch.empty_like(slot).index_copy_(0, self.order, slot)

    @cached_property
    def _edge_of_slot(self) -> torch.Tensor:
        slots = self.order.new_zeros(self.num_atoms * self.num_slots)
        edge = torch.arange(self.order.numel(), device=slots.device)
        return slots.index_copy_(0, self._slot_of_edge, edge)

    @cached_property
    def _free(self) -> torch.Tensor:
        number = torch.arange(self.num_slots, device=self.count.device)
        return (number >= self.count.unsqueeze(1)).unsqueeze(2)

    def places(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """What the operators want to know."""
        return self.order, self.first, self.degree, len(self.slices)

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        """[num_edges, width] to [num_atoms, num_slots, width]; free slots hold any edge."""
        padded = x.index_select(0, self._edge_of_slot)
        return padded.view(self.num_atoms, self.num_slots, x.size(1))

    def pad_by_zeros(self, x: torch.Tensor) -> torch.Tensor:
        """The same with zeros in free slots."""
        return self.pad(x).masked_fill_(self._free, 0.0)

    def unpad(self, padded: torch.Tensor) -> torch.Tensor:
        """[num_atoms, num_slots, width] to [num_edges, width]."""
        return padded.flatten(0, 1).index_select(0, self._slot_of_edge)


def environment(
    weights: torch.Tensor, harmonics: torch.Tensor, environments: Environments
) -> torch.Tensor:
    """Σ_{e around n} w[e,l(i),u] Y[e,i].

    Args:
        weights: [num_edges, degrees * channels].
        harmonics: [num_edges, components].
        environments: of the edges.

    Returns:
        [num_atoms, components, channels].
    """
    return _Environment.apply(weights, harmonics, environments)


def projection(
    harmonics: torch.Tensor, field: torch.Tensor, environments: Environments
) -> torch.Tensor:
    """Σ_{i of l} Y[e,i] A[n(e),i,u].

    Args:
        harmonics: [num_edges, components].
        field: [num_atoms, components, channels].
        environments: of the edges.

    Returns:
        [num_edges, degrees * channels].
    """
    return _Projection.apply(harmonics, field, environments)


class _Environment(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights, harmonics, environments):
        ctx.save_for_backward(weights, harmonics)
        ctx.environments = environments
        return _sum_over_edges(weights, harmonics, environments)

    @staticmethod
    def backward(ctx, grad):
        weights, harmonics = ctx.saved_tensors
        wanted, environments = ctx.needs_input_grad, ctx.environments
        return (
            _Projection.apply(harmonics, grad, environments) if wanted[0] else None,
            _Harmonics.apply(weights, grad, environments) if wanted[1] else None,
            None,
        )


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(ctx, harmonics, field, environments):
        ctx.save_for_backward(harmonics, field)
        ctx.environments = environments
        return _project(harmonics, field, environments)

    @staticmethod
    def backward(ctx, grad):
        harmonics, field = ctx.saved_tensors
        wanted, environments = ctx.needs_input_grad, ctx.environments
        return (
            _Harmonics.apply(grad, field, environments) if wanted[0] else None,
            _Environment.apply(grad, harmonics, environments) if wanted[1] else None,
            None,
        )


class _Harmonics(torch.autograd.Function):
    """Σ_u w[e,l(i),u] A[n(e),i,u]: [num_edges, components]."""

    @staticmethod
    def forward(ctx, weights, field, environments):
        ctx.save_for_backward(weights, field)
        ctx.environments = environments
        return _contract(weights, field, environments)

    @staticmethod
    def backward(ctx, grad):
        weights, field = ctx.saved_tensors
        wanted, environments = ctx.needs_input_grad, ctx.environments
        return (
            _Projection.apply(grad, field, environments) if wanted[0] else None,
            _Environment.apply(weights, grad, environments) if wanted[1] else None,
            None,
        )


def _sum_over_edges(
    weights: torch.Tensor, harmonics: torch.Tensor, environments: Environments
) -> torch.Tensor:
    operators = function_sums.operators_for(weights)
    if hasattr(operators, "environment_sum"):  # not in libraries of older sources
        return operators.environment_sum(
            weights.contiguous(), harmonics.contiguous(), *environments.places()
        )
    padded = environments.pad(weights)
    turned = environments.pad_by_zeros(harmonics).transpose(1, 2)
    channels = weights.size(1) // len(environments.slices)
    parts = [
        torch.bmm(turned[:, own], padded[:, :, number * channels : (number + 1) * channels])
        for number, own in enumerate(environments.slices)
    ]
    return torch.cat(parts, dim=1)


def _project(
    harmonics: torch.Tensor, field: torch.Tensor, environments: Environments
) -> torch.Tensor:
    operators = function_sums.operators_for(harmonics)
    if hasattr(operators, "environment_projection"):  # not in libraries of older sources
        return operators.environment_projection(
            harmonics.contiguous(), field.contiguous(), *environments.places()
        )
    padded = environments.pad(harmonics)
    parts = [torch.bmm(padded[:, :, own], field[:, own]) for own in environments.slices]
    return environments.unpad(torch.cat(parts, dim=2))


def _contract(
    weights: torch.Tensor, field: torch.Tensor, environments: Environments
) -> torch.Tensor:
    operators = function_sums.operators_for(weights)
    if hasattr(operators, "environment_harmonics"):  # not in libraries of older sources
        return operators.environment_harmonics(
            weights.contiguous(), field.contiguous(), *environments.places()
        )
    padded, turned = environments.pad(weights), field.transpose(1, 2)
    channels = field.size(2)
    parts = [
        torch.bmm(padded[:, :, number * channels : (number + 1) * channels], turned[:, :, own])
        for number, own in enumerate(environments.slices)
    ]
    return environments.unpad(torch.cat(parts, dim=2))
