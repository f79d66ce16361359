"""Taking bias-free perceptrons apart, so that neighbouring linear maps can be multiplied out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from nequip.nn.mlp import DeepLinearMLP, ScalarLinearLayer, ScalarMLPFunction

from kan_md.backbones.readout import MLP


@dataclass(frozen=True)
class Split:
    """A function x -> body(x @ first) @ last on rows.

    Attributes:
        first: [in, hidden] float64; None where the function is opaque and ``body`` is all of it.
        body: what lies between.
        last: [hidden, out] float64; None where nothing linear comes last.
        out_features: width of the result.
    """

    first: torch.Tensor | None
    body: torch.nn.Module
    last: torch.Tensor | None
    out_features: int


def split_function(function: torch.nn.Module, *, out_features: int) -> Split:
    """Split a perceptron into first linear map, middle and last linear map.

    Args:
        function: a module on rows of scalars; anything but a bias-free perceptron is opaque.
        out_features: its output width.
    """
    layers = _layers(function)
    if layers is None:
        return Split(None, function, None, out_features)
    first = _weight(layers[0])
    if len(layers) == 1:
        return Split(first, torch.nn.Identity(), None, out_features)
    body = torch.nn.Sequential(*layers[1:-1])
    return Split(first, body, _weight(layers[-1]), out_features)


def as_module(weight: torch.Tensor | None, dtype: torch.dtype) -> torch.nn.Module:
    """A linear map [in, out] as a module; the identity where there is none."""
    return torch.nn.Identity() if weight is None else _Linear(weight.to(dtype))


class _Linear(torch.nn.Module):
    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.mm(x, self.weight)


def _layers(function: torch.nn.Module) -> list[torch.nn.Module] | None:
    """Layers of a perceptron whose ends are linear without bias, or None."""
    inner = function.mlp if isinstance(function, ScalarMLPFunction) else function
    if isinstance(inner, DeepLinearMLP):
        return [inner]
    if not isinstance(inner, (MLP, torch.nn.Sequential)):
        return None
    layers = list(inner)
    linear = [layer for layer in layers if isinstance(layer, ScalarLinearLayer)]
    ends_are_linear = all(isinstance(layers[i], ScalarLinearLayer) for i in (0, -1))
    if not ends_are_linear or any(layer.bias is not None for layer in linear):
        return None
    return layers


def _weight(layer: torch.nn.Module) -> torch.Tensor:
    if isinstance(layer, DeepLinearMLP):
        product = layer.weights[0].detach().double()
        for weight in list(layer.weights)[1:]:
            product = product @ weight.detach().double()
        return product * layer.alpha.double()
    return (layer.weight.detach().double()) * layer.alpha.double()
