"""Where a function of the distance that goes through KAN layers is not smooth.

A KAN layer's functions have kinks at the ends of their grids, where tails begin, and B-splines at
every knot. A function of the distance has one wherever an input of such a layer crosses one of
these places.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from kan_md.kan.layer import KANLayer

_SAMPLES = 2048
_HALVINGS = 40
_FROM = 0.01
"""Parts of the cutoff below which nothing is looked for; see ``interval_tables``."""


def find_kinks(function: Callable[[torch.Tensor], torch.Tensor], cutoff: float) -> torch.Tensor:
    """Distances at which an input of a KAN layer is at a kink of the layer, Å, float64.

    Args:
        function: of lengths [n]; calls its KAN layers with [n, in] each.
        cutoff: Å.
    """
    lengths = cutoff * (_FROM + (1.0 - _FROM) * torch.arange(_SAMPLES + 1).double() / _SAMPLES)
    low, high = [], []
    crossings: list[tuple[int, torch.Tensor, torch.Tensor]] = []  # layer, input and level of each
    for number, (layer, place) in enumerate(_places(function, lengths)):
        inner = range(1, layer.steps) if layer.basis == "bspline" else ()
        for level in (0, *inner, layer.steps):
            above = place > level
            at, input_ = (above[1:] != above[:-1]).nonzero(as_tuple=True)
            low.append(lengths[at])
            high.append(lengths[at + 1])
            crossings.append((number, input_, torch.full_like(lengths[at], level)))
    if not crossings:
        return lengths[:0]
    low, high = torch.cat(low), torch.cat(high)
    sizes = [len(input_) for _, input_, _ in crossings]
    rising = None
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        places = [place for _, place in _places(function, middle)]
        above = torch.cat(
            [
                places[number][rows, input_] > level
                for rows, (number, input_, level) in zip(
                    torch.arange(len(middle)).split(sizes), crossings, strict=True
                )
            ]
        )
        if rising is None:
            ends = [place for _, place in _places(function, high)]
            rising = torch.cat(
                [
                    ends[number][rows, input_] > level
                    for rows, (number, input_, level) in zip(
                        torch.arange(len(middle)).split(sizes), crossings, strict=True
                    )
                ]
            )
        beyond = above == rising
        low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
    return 0.5 * (low + high)


def _places(
    function: Callable[[torch.Tensor], torch.Tensor], lengths: torch.Tensor
) -> list[tuple[KANLayer, torch.Tensor]]:
    """KAN layers in the order of their calls, and their inputs in steps of their grids."""
    found: list[tuple[KANLayer, torch.Tensor]] = []

    def note(module: torch.nn.Module, arguments: tuple) -> None:
        if isinstance(module, KANLayer):
            z = arguments[0] if module.input_gain is None else arguments[0] * module.input_gain
            found.append((module, z / module.grid_step + module.grid_zero))

    handle = register_module_forward_pre_hook(note)
    try:
        with torch.no_grad():
            function(lengths)
    finally:
        handle.remove()
    return found
