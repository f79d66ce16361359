"""What is made of a model's tensors, kept until one of them changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

Made = TypeVar("Made")
SideBySide = dict[torch.dtype, torch.Tensor]
"""1-d, of all tensors of a kind."""


class Kept(Generic[Made]):
    """Something made of a module's parameters and buffers, made again where one has other values.

    While a parameter takes gradients it is made at every call: it is part of that step's graph.
    Values are compared, for a tenth of a millisecond; the versions that torch counts miss what is
    written through ``.data``.

    Args:
        module: whose tensors they are; it is not owned.
        make: makes it.
    """

    def __init__(self, module: torch.nn.Module, make: Callable[[], Made]):
        self._module, self._make = module, make
        self._made: Made | None = None
        self._of: SideBySide = {}

    def __call__(self, tensors: list[torch.Tensor] | None = None) -> Made:
        """What is made of the module as it is now.

        Args:
            tensors: of :func:`tensors_of` the module, where that is known.
        """
        tensors = tensors_of(self._module) if tensors is None else tensors
        if takes_gradients(tensors):
            return self._make()
        with torch.no_grad(), normal_tensors():
            of = side_by_side(tensors)
            if self._made is None or not are_equal(of, self._of):
                self._made, self._of = self._make(), of
        return self._made


@contextmanager
def normal_tensors() -> Iterator[None]:
    """Make tensors that a later call may differentiate through, in inference mode too."""
    with_graph = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(with_graph):
        yield


@contextmanager
def parameters_held(module: torch.nn.Module) -> Iterator[None]:
    """Take no gradients of parameters meanwhile, as in validation, which needs forces alone."""
    held = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def takes_gradients(tensors: list[torch.Tensor]) -> bool:
    """Whether what is made of tensors now is part of a graph of autograd's."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def tensors_of(module: torch.nn.Module) -> list[torch.Tensor]:
    """Parameters and buffers; torch's own way makes names, which takes ten times as long."""
    found: list[torch.Tensor | None] = []
    waiting: list[torch.nn.Module | None] = [module]
    while waiting:
        part = waiting.pop()
        if part is None:
            continue
        found += part._parameters.values()
        found += part._buffers.values()
        waiting += part._modules.values()
    return [tensor for tensor in found if tensor is not None]


def side_by_side(tensors: list[torch.Tensor]) -> SideBySide:
    """Values of tensors, to compare later ones with."""
    flat: dict[torch.dtype, list[torch.Tensor]] = {}
    for tensor in tensors:
        flat.setdefault(tensor.dtype, []).append(tensor.reshape(-1))
    return {dtype: torch.cat(parts) for dtype, parts in flat.items()}


def are_equal(a: SideBySide, b: SideBySide) -> bool:
    """Whether all values are the same."""
    return a.keys() == b.keys() and all(
        a[dtype].device == b[dtype].device and torch.equal(a[dtype], b[dtype]) for dtype in a
    )
