"""The networks of the length that a MACE may have, as functions of its radial functions.

A perceptron with SiLU is matrices, whose values and slopes one operator's activation takes side by
side. A KAN is evaluated as it is defined, its slopes by forward differentiation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from kan_md.backbones.readout import MLP, ProjectedKAN
from kan_md.forms.activation import TwiceSiLU
from kan_md.forms.equivariant_weights import knows_network, network_weights
from kan_md.forms.radial_jets import network_of_jets
from kan_md.kan.network import KAN


class RadialNetwork(Protocol):
    """A function of rows of radial functions, for one step: weights are those of now."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, in] -> [rows, out]."""

    def of_jets(self, x: torch.Tensor) -> torch.Tensor:
        """Values and slopes [2, rows, in] -> [2, rows, out]; no gradient by these."""

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        """As called, without gradients by weights, for derivatives in forward mode of any order."""


def knows_radial_network(network: torch.nn.Module) -> bool:
    """Whether :func:`radial_network` reads a module."""
    if isinstance(network, (KAN, ProjectedKAN)):
        return True
    return _is_perceptron(network) or knows_network(network)


def radial_network(network: torch.nn.Module) -> RadialNetwork:
    """The function of a module that :func:`knows_radial_network` knows."""
    if isinstance(network, (KAN, ProjectedKAN)):
        return _Functions(network)
    if _is_perceptron(network):
        return _Perceptron([layer.weight * layer.alpha for layer in list(network)[::2]])
    return _Perceptron(network_weights(network))


def _is_perceptron(network: torch.nn.Module) -> bool:
    return isinstance(network, MLP) and all(
        isinstance(between, torch.nn.SiLU) for between in list(network)[1::2]
    )


class _Perceptron:
    """Matrices with SiLUs between them."""

    def __init__(self, weights: Sequence[torch.Tensor]):
        self.weights = weights

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._through(x, self.weights, TwiceSiLU())

    def of_jets(self, x: torch.Tensor) -> torch.Tensor:
        return network_of_jets(x, self.weights)

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        return self._through(x, [weight.detach() for weight in self.weights], _silu)

    @staticmethod
    def _through(
        x: torch.Tensor,
        weights: Sequence[torch.Tensor],
        silu: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        for number, weight in enumerate(weights):
            x = (silu(x) if number else x) @ weight
        return x


class _Functions:
    """A KAN, of combinations or of the radial functions themselves."""

    def __init__(self, network: KAN | ProjectedKAN):
        *projections, kan = [network] if isinstance(network, KAN) else network
        self.projections, self.layers = projections, list(kan.layers)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        for projection in self.projections:
            x = projection(x)
        for layer in self.layers:
            z = x if layer.input_gain is None else x * layer.input_gain
            x = layer.expansion(z)
            if layer.base_weight is not None:
                x = x + _silu(z) @ layer.base_weight.t()
        return x

    def of_jets(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack(torch.func.jvp(self, (x[0],), (x[1],)))

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        return self(x)


def _silu(x: torch.Tensor) -> torch.Tensor:
    # silu_backward has no derivative in forward mode
    return x * torch.sigmoid(x)
