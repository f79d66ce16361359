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

import torch


class Stars:
    """Which edges are around which centre, and the degrees of harmonics.

    Edges are padded per centre to the largest count, so that each sum is a batched product.

    Args:
        centre: [num_edges], in any order.
        num_atoms: of all frames.
        slices: components of each degree.
    """

    def __init__(self, centre: torch.Tensor, num_atoms: int, slices: list[slice]):
        self.slices = slices
        self.num_atoms = num_atoms
        count = torch.bincount(centre, minlength=num_atoms)
        self.num_slots = int(count.max()) if centre.numel() else 0
        number = torch.arange(centre.numel(), device=centre.device)
        order = torch.argsort(centre, stable=True)
        first = torch.cumsum(count, 0) - count
        slot = centre[order] * self.num_slots + number - first[centre[order]]
        self.slot_of_edge = torch.empty_like(slot).index_copy_(0, order, slot)
        slots = torch.zeros(num_atoms * self.num_slots, dtype=torch.int64, device=centre.device)
        self._edge_of_slot = slots.index_copy_(0, slot, order)
        taken = torch.arange(self.num_slots, device=centre.device) < count.unsqueeze(1)
        self._free = ~taken.unsqueeze(2)

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        """[num_edges, width] to [num_atoms, num_slots, width]; free slots hold any edge."""
        padded = x.index_select(0, self._edge_of_slot)
        return padded.view(self.num_atoms, self.num_slots, x.size(1))

    def pad_by_zeros(self, x: torch.Tensor) -> torch.Tensor:
        """The same with zeros in free slots."""
        return self.pad(x).masked_fill_(self._free, 0.0)

    def unpad(self, padded: torch.Tensor) -> torch.Tensor:
        """[num_atoms, num_slots, width] to [num_edges, width]."""
        return padded.flatten(0, 1).index_select(0, self.slot_of_edge)


def environment(weights: torch.Tensor, harmonics: torch.Tensor, stars: Stars) -> torch.Tensor:
    """Σ_{e around n} w[e,l(i),u] Y[e,i].

    Args:
        weights: [num_edges, degrees * channels].
        harmonics: [num_edges, components].
        stars: of the edges.

    Returns:
        [num_atoms, components, channels].
    """
    return _Environment.apply(weights, harmonics, stars)


def projection(harmonics: torch.Tensor, field: torch.Tensor, stars: Stars) -> torch.Tensor:
    """Σ_{i of l} Y[e,i] A[n(e),i,u].

    Args:
        harmonics: [num_edges, components].
        field: [num_atoms, components, channels].
        stars: of the edges.

    Returns:
        [num_edges, degrees * channels].
    """
    return _Projection.apply(harmonics, field, stars)


class _Environment(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights, harmonics, stars):
        ctx.save_for_backward(weights, harmonics)
        ctx.stars = stars
        padded = stars.pad(weights)
        turned = stars.pad_by_zeros(harmonics).transpose(1, 2)
        channels = weights.size(1) // len(stars.slices)
        parts = [
            torch.bmm(turned[:, own], padded[:, :, number * channels : (number + 1) * channels])
            for number, own in enumerate(stars.slices)
        ]
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx, grad):
        weights, harmonics = ctx.saved_tensors
        wanted, stars = ctx.needs_input_grad, ctx.stars
        return (
            _Projection.apply(harmonics, grad, stars) if wanted[0] else None,
            _Harmonics.apply(weights, grad, stars) if wanted[1] else None,
            None,
        )


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(ctx, harmonics, field, stars):
        ctx.save_for_backward(harmonics, field)
        ctx.stars = stars
        padded = stars.pad(harmonics)
        parts = [torch.bmm(padded[:, :, own], field[:, own]) for own in stars.slices]
        return stars.unpad(torch.cat(parts, dim=2))

    @staticmethod
    def backward(ctx, grad):
        harmonics, field = ctx.saved_tensors
        wanted, stars = ctx.needs_input_grad, ctx.stars
        return (
            _Harmonics.apply(grad, field, stars) if wanted[0] else None,
            _Environment.apply(grad, harmonics, stars) if wanted[1] else None,
            None,
        )


class _Harmonics(torch.autograd.Function):
    """Σ_u w[e,l(i),u] A[n(e),i,u]: [num_edges, components]."""

    @staticmethod
    def forward(ctx, weights, field, stars):
        ctx.save_for_backward(weights, field)
        ctx.stars = stars
        padded, turned = stars.pad(weights), field.transpose(1, 2)
        channels = field.size(2)
        parts = [
            torch.bmm(padded[:, :, number * channels : (number + 1) * channels], turned[:, :, own])
            for number, own in enumerate(stars.slices)
        ]
        return stars.unpad(torch.cat(parts, dim=2))

    @staticmethod
    def backward(ctx, grad):
        weights, field = ctx.saved_tensors
        wanted, stars = ctx.needs_input_grad, ctx.stars
        return (
            _Projection.apply(grad, field, stars) if wanted[0] else None,
            _Environment.apply(weights, grad, stars) if wanted[1] else None,
            None,
        )
