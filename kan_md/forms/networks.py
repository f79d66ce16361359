"""Taking functions of rows apart: first map, middle, last linear map.

The first map of a perceptron or of a KAN is a sum over its inputs, so a network that reads several
sources takes one contribution from each, and nothing has to be concatenated. Linear maps that
follow each other can be multiplied out.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from nequip.nn.mlp import DeepLinearMLP, ScalarLinearLayer, ScalarMLPFunction

from kan_md.backbones.readout import MLP, ProjectedKAN
from kan_md.kan.layer import KANLayer
from kan_md.kan.network import KAN


@dataclass(frozen=True)
class Split:
    """A function x -> body(first(x)) @ last on rows.

    Attributes:
        first: [in, hidden] float64, or a KAN layer.
        body: what lies between.
        last: [hidden, out] float64; None where nothing linear comes last.
        out_features: width of the result.
    """

    first: torch.Tensor | KANLayer
    body: torch.nn.Module
    last: torch.Tensor | None
    out_features: int

    def last_or_identity(self) -> torch.Tensor:
        """The last linear map, [hidden or out, out] float64."""
        if self.last is not None:
            return self.last
        first = self.first
        device = first.device if isinstance(first, torch.Tensor) else first.grid_step.device
        return torch.eye(self.out_features, dtype=torch.float64, device=device)


def split_function(function: torch.nn.Module) -> Split | None:
    """Split a bias-free perceptron or a KAN, projected or not; None for anything else."""
    if isinstance(function, ProjectedKAN):
        projection, kan = function
        return Split(linear_weight(projection), kan, None, kan.widths[-1])
    if isinstance(function, KAN):
        first, *rest = function.layers
        return Split(first, torch.nn.Sequential(*rest), None, function.widths[-1])
    layers = _perceptron_layers(function)
    if layers is None:
        return None
    first = linear_weight(layers[0])
    if len(layers) == 1:
        return Split(first, torch.nn.Identity(), None, first.size(1))
    last = linear_weight(layers[-1])
    return Split(first, torch.nn.Sequential(*layers[1:-1]), last, last.size(1))


def _perceptron_layers(function: torch.nn.Module) -> list[torch.nn.Module] | None:
    """Layers of a perceptron whose ends are linear without bias, or None."""
    inner = function.mlp if isinstance(function, ScalarMLPFunction) else function
    if isinstance(inner, DeepLinearMLP):
        return [inner]
    if not isinstance(inner, (MLP, torch.nn.Sequential)):
        return None
    layers = list(inner)
    if not all(isinstance(layers[end], ScalarLinearLayer) for end in (0, -1)):
        return None
    if any(isinstance(x, ScalarLinearLayer) and x.bias is not None for x in layers):
        return None
    return layers


def linear_weight(layer: torch.nn.Module) -> torch.Tensor:
    """Matrix [in, out] float64 of one of upstream's linear maps, its scale included.

    Differentiable in the map's own parameters, like everything here but :func:`followed_by`.
    """
    if isinstance(layer, ScalarMLPFunction):
        assert not layer.is_nonlinear, "upstream makes this map linear"
        (layer,) = layer.mlp if not isinstance(layer.mlp, DeepLinearMLP) else (layer.mlp,)
    if isinstance(layer, DeepLinearMLP):
        product = layer.weights[0].double()
        for weight in list(layer.weights)[1:]:
            product = product @ weight.double()
        return product * layer.alpha.double()
    return layer.weight.double() * layer.alpha.double()


def part_of_layer(layer: KANLayer, inputs: slice) -> KANLayer:
    """The terms of a KAN layer that belong to some of its inputs, as a function of its weights."""
    part = copy.copy(layer)
    names = (*layer._parameters, *layer._buffers)
    part._parameters, part._buffers = {}, {}
    for name in names:
        tensor = getattr(layer, name)
        if tensor is not None:  # coefficients [out, in, basis], base_weight [out, in], others [in]
            tensor = (tensor[:, inputs] if tensor.dim() > 1 else tensor[inputs]).clone()
        part.register_buffer(name, tensor)
    part.in_features = part.grid_step.numel()
    return part


def followed_by(layer: KANLayer, matrix: torch.Tensor) -> KANLayer:
    """A KAN layer and the linear map [out, width] behind it as one layer."""
    product = copy.deepcopy(layer).to(matrix.dtype)
    product.coefficients = torch.nn.Parameter(
        torch.einsum("oim,op->pim", product.coefficients.detach(), matrix)
    )
    if product.base_weight is not None:
        product.base_weight = torch.nn.Parameter(matrix.t() @ product.base_weight.detach())
    product.out_features = matrix.size(1)
    return product


class Linear(torch.nn.Module):
    """x @ weight.

    Args:
        weight: [in, out].
    """

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [rows, in] to [rows, out]."""
        return torch.mm(x, self.weight)


class Contributions(torch.nn.Module):
    """What one source of scalars contributes to everything that reads it.

    Args:
        direct: [in, width] each, linear maps wanted as they are.
        scalars: [in, width], linear map to the scalars that networks read.
        readers: first maps of these networks, restricted to these scalars.
        dtype: of the weights.
    """

    def __init__(
        self,
        direct: list[torch.Tensor],
        scalars: torch.Tensor,
        *,
        readers: list[torch.Tensor | KANLayer],
        dtype: torch.dtype,
    ):
        super().__init__()
        pieces = list(direct)
        self.num_direct = len(direct)
        self.piece_of: list[int] = []
        shared = -1  # networks that are not linear at first share one copy of the scalars
        for reader in readers:
            if isinstance(reader, torch.Tensor):
                self.piece_of.append(len(pieces))
                pieces.append(scalars @ reader)
            else:
                if shared < 0:
                    shared = len(pieces)
                    pieces.append(scalars)
                self.piece_of.append(shared)
        self.functions = torch.nn.ModuleList(
            torch.nn.Identity() if isinstance(reader, torch.Tensor) else reader
            for reader in readers
        )
        self.widths: list[int] = [piece.size(1) for piece in pieces]
        self.register_buffer("weight", torch.cat(pieces, dim=1).to(dtype))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """[rows, in] to the direct maps and the contributions, in the order of the arguments."""
        return self.apply_functions(torch.mm(x, self.weight))

    def apply_functions(self, linear: torch.Tensor) -> list[torch.Tensor]:
        """The same from the result of all linear maps, side by side."""
        pieces = torch.split(linear, self.widths, dim=1)
        result: list[torch.Tensor] = []
        for number in range(self.num_direct):
            result.append(pieces[number])
        for number, function in enumerate(self.functions):
            result.append(function(pieces[self.piece_of[number]]))
        return result
