"""Latent networks of a factored Allegro as the operator takes them.

A latent network begins with a sum over its sources: the pair, earlier layers, the scalars of the
tensors. In a perceptron and behind a projection every term is linear; in a KAN it is a KAN layer of
the source's own scalars. What follows the sum is a body of maps, and the linear map to everything
that reads the result is multiplied into the last one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from nequip.nn.mlp import ScalarLinearLayer

from kan_md.forms.allegro import FactoredAllegro, Layer
from kan_md.forms.networks import Linear, followed_by, linear_weight
from kan_md.kan.layer import KANLayer
from kan_md.kan.network import KAN

PERCEPTRON, KAN_LATENT, PROJECTED_KAN = 0, 1, 2  # enum Latent in allegro_plan.h


@dataclass(frozen=True)
class LatentBody:
    """What follows the sum of a latent network.

    Attributes:
        kind: of enum Latent.
        matrices: of a perceptron, from hidden layer to hidden layer, float64.
        kans: of the other kinds.
    """

    kind: int
    matrices: tuple[torch.Tensor, ...] = ()
    kans: tuple[KANLayer, ...] = ()


def read_latent_body(layer: Layer) -> LatentBody | None:
    """The body of one layer's latent network; None for one that the operator does not know."""
    body = layer.body.layers if isinstance(layer.body, KAN) else layer.body
    steps = list(body) if isinstance(body, torch.nn.Sequential) else [body]
    if all(isinstance(step, KANLayer) for step in steps):
        if isinstance(layer.reads, KANLayer):
            known = all(kan.zero_preserving for kan in (layer.reads, *steps))
            return LatentBody(KAN_LATENT, kans=tuple(steps)) if known else None
        known = len(steps) > 0 and all(kan.zero_preserving for kan in steps)
        return LatentBody(PROJECTED_KAN, kans=tuple(steps)) if known else None
    matrices = perceptron_matrices(steps)
    if matrices is None or not isinstance(layer.reads, Linear):
        return None
    return LatentBody(PERCEPTRON, matrices=matrices)


def perceptron_matrices(steps: list[torch.nn.Module]) -> tuple[torch.Tensor, ...] | None:
    """Maps [in, out] float64 between SiLUs, of which there is one more; None for anything else."""
    activations, maps = steps[::2], steps[1::2]
    known = (
        len(activations) == len(maps) + 1
        and all(isinstance(step, torch.nn.SiLU) for step in activations)
        and all(isinstance(m, ScalarLinearLayer) and m.bias is None for m in maps)
    )
    return tuple(linear_weight(m) for m in maps) if known else None


@dataclass(frozen=True)
class LatentNetwork:
    """One latent network, its last map multiplied out with ``result``.

    Attributes:
        kind: of enum Latent.
        pair: a KAN's functions of what the pair gives; None where the sum is linear.
        sources: a KAN's functions of each earlier layer's scalars.
        scalars: [channels, width] or a KAN layer, of the tensors' scalars.
        maps: what follows the sum, the last one to the result.
        widths: of the sum and of the values between the maps; without the result.
    """

    kind: int
    pair: KANLayer | None
    sources: tuple[KANLayer, ...]
    scalars: torch.Tensor | KANLayer
    maps: tuple[torch.Tensor | KANLayer, ...]
    widths: tuple[int, ...]


def latent_network(factored: FactoredAllegro, number: int, result: torch.Tensor) -> LatentNetwork:
    """Take one latent network apart.

    Args:
        factored: the model.
        number: of the layer; its body is one that :func:`read_latent_body` knows.
        result: [out, width] float64, from the network's last values to all that read them.
    """
    layers = list(factored.layers)
    layer = layers[number]
    body = read_latent_body(layer)
    assert body is not None, "checked before"
    if body.kind == PERCEPTRON:
        maps = (*body.matrices, result)
        widths = tuple(matrix.size(0) for matrix in maps)
        return LatentNetwork(PERCEPTRON, None, (), layer.reads.weight, maps, widths)
    kans = list(body.kans)
    if kans:
        kans[-1] = followed_by(kans[-1], result)
    widths = tuple(kan.in_features for kan in kans)
    if body.kind == PROJECTED_KAN:
        return LatentNetwork(PROJECTED_KAN, None, (), layer.reads.weight, tuple(kans), widths)
    first = [
        factored.radial.contributions.functions[number],
        *(layers[s].contributions.functions[number - s - 1] for s in range(number)),
        layer.reads,
    ]
    if not kans:
        first = [followed_by(kan, result) for kan in first]
    pair, *sources, scalars = first
    return LatentNetwork(KAN_LATENT, pair, tuple(sources), scalars, tuple(kans), widths)
