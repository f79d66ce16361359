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
from kan_md.ops.interval_tables import NEAREST

_SAMPLES = 2048
_STEPS = 12


def find_non_smooth_distances(
    function: Callable[[torch.Tensor], torch.Tensor], cutoff: float
) -> torch.Tensor:
    """Distances at which an input of a KAN layer is at a kink of the layer, Å, float64.

    Args:
        function: of lengths [n]; calls its KAN layers with [n, in] each.
        cutoff: Å.
    """
    lengths = cutoff * (NEAREST + (1.0 - NEAREST) * torch.arange(_SAMPLES + 1).double() / _SAMPLES)
    brackets: list[torch.Tensor] = []  # places in the list of lengths, of each kind of crossing
    crossings: list[tuple[int, torch.Tensor, int]] = []  # layer, input and level of each kind
    for number, (layer, place) in enumerate(_places(function, lengths)):
        inner = range(1, layer.steps) if layer.basis == "bspline" else ()
        for level in (0, *inner, layer.steps):
            above = place > level
            at, input_ = (above[1:] != above[:-1]).nonzero(as_tuple=True)
            brackets.append(at)
            crossings.append((number, input_, level))
    if not crossings:
        return lengths[:0]
    at = torch.cat(brackets)
    sizes = [len(input_) for _, input_, _ in crossings]

    def distance(lengths: torch.Tensor) -> torch.Tensor:
        """How far each input is above its level."""
        places = [place for _, place in _places(function, lengths)]
        rows = torch.arange(len(lengths)).split(sizes)
        return torch.cat(
            [
                places[number][mine, input_] - level
                for mine, (number, input_, level) in zip(rows, crossings, strict=True)
            ]
        )

    return _roots(distance, lengths[at], lengths[at + 1])


def _roots(
    function: Callable[[torch.Tensor], torch.Tensor], low: torch.Tensor, high: torch.Tensor
) -> torch.Tensor:
    """Zeros between ends of opposite sign, all at once: regula falsi with Illinois' halving.

    Dowell and Jarratt, BIT 1971;11:168.
    """
    at_low, at_high = function(low), function(high)
    for _ in range(_STEPS):
        slope = (at_high - at_low) / torch.where(high == low, 1.0, high - low)
        middle = high - at_high / torch.where(slope == 0.0, 1.0, slope)
        at_middle = function(middle)
        changes = at_middle * at_high < 0.0
        low = torch.where(changes, high, low)
        at_low = torch.where(changes, at_high, 0.5 * at_low)
        high, at_high = middle, at_middle
    return high


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
