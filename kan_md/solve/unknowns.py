"""The parameters in which a potential's energy is linear: those of the readouts' last layers.

E = E_0 + Σ_p c_p E_p, where E_0 is the energy with all c at zero and E_p what one of them adds at
the value 1. Forces and stress are derivatives by positions and strain, so they are linear, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kan_md.backbones.build import sites_of
from kan_md.backbones.mace import upstream_readouts
from kan_md.backbones.readout import MLP, ProjectedKAN
from kan_md.errors import user_error
from kan_md.kan.controls import FinnisSinclair, LinearPerType
from kan_md.kan.layer import KANLayer
from kan_md.kan.network import KAN
from kan_md.kan.per_type import PerTypeKAN
from kan_md.kan.roughness import roughness

_READOUTS_OF_MACE = ("linear_2", "linear")
"""Last maps of mace-torch's readout blocks, whichever a block has."""


class Unknowns:
    """The parameters of a model in which its energy is linear, in a row.

    Args:
        model: a potential.
        backbone: its architecture.

    Raises:
        KanMdError: readouts of a kind whose last layer is not known.

    Attributes:
        model: that holds them.
        parameters: in order.
        functions: modules that hold them, with the scalars of rows as their only input.
        size: how many numbers.
    """

    def __init__(self, model: torch.nn.Module, backbone: str) -> None:
        self.model = model
        self._layers: list[tuple[int, KANLayer]] = []
        self.parameters: list[torch.nn.Parameter] = []
        slots = sites_of(model, backbone).get("output", [])
        self.functions = [slot.function for slot in slots]
        if backbone == "mace":
            self.functions += [block for _, block in upstream_readouts(model)]
        for function in self.functions:
            self._add(function)
        if not self.parameters:
            raise user_error(
                f"output block of {backbone} to solve for",
                found="none",
                allowed="a potential with readouts of kind kan, mlp, linear or finnis_sinclair",
                remedy="give such a model",
            )
        self.size = sum(parameter.numel() for parameter in self.parameters)

    def _add(self, function: torch.nn.Module) -> None:
        if isinstance(function, PerTypeKAN):
            for kan in function.kans:
                self._add(kan)
        elif isinstance(function, ProjectedKAN):
            self._add(function[-1])
        elif isinstance(function, KAN):
            layer = function.layers[-1]
            self._layers.append((sum(p.numel() for p in self.parameters), layer))
            self.parameters.append(layer.coefficients)
            if layer.base_weight is not None:
                self.parameters.append(layer.base_weight)
        elif isinstance(function, FinnisSinclair):
            self.parameters += [function.line, function.root]
        elif isinstance(function, LinearPerType):
            self.parameters.append(function.weight)
        elif isinstance(function, MLP):
            self.parameters.append(function[-1].weight)
        else:
            names = [name for name in _READOUTS_OF_MACE if hasattr(function, name)]
            if not names:
                raise user_error(
                    "output block to solve for",
                    found=type(function).__name__,
                    allowed="readouts of kind kan, mlp, linear or finnis_sinclair",
                    remedy="give a model with one of these",
                )
            self.parameters.append(getattr(function, names[0]).weight)

    def vector(self) -> torch.Tensor:
        """The values, [size] float64."""
        return torch.cat([p.detach().double().reshape(-1) for p in self.parameters])

    @torch.no_grad()
    def put(self, vector: torch.Tensor) -> None:
        """Give them values, [size]."""
        start = 0
        for parameter in self.parameters:
            part = vector[start : start + parameter.numel()]
            parameter.copy_(part.view_as(parameter))
            start += parameter.numel()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Leave with the values of before."""
        before = [parameter.detach().clone() for parameter in self.parameters]
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, before, strict=True):
                    parameter.copy_(value)

    def roughness(self) -> torch.Tensor:
        """R of cᵀRc = Σ_functions ∫ φ''(s)² ds over the grids, s in steps: [size, size] float64.

        Zero for what is no expansion: base weights, maps of an MLP.
        """
        matrix = torch.zeros(self.size, self.size, dtype=torch.float64)
        for start, layer in self._layers:
            own = roughness(layer)
            for number in range(layer.out_features * layer.in_features):
                first = start + number * layer.num_basis
                matrix[first : first + len(own), first : first + len(own)] = own
        return matrix
