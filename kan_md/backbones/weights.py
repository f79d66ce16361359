"""Copying weights between models of one architecture, whatever generated their code.

e3nn writes code for its tensor products and linear maps and keeps the constants of that code in the
state, coupling coefficients for one. Which there are depends on the version of e3nn and on how
often a model went through pickle: they are no weights, and each model has its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

_DERIVED = ("output_mask", "_zeroed")
"""Endings of buffers that say which entries of an output or a weight exist; they follow from the
architecture, and older versions of e3nn and mace-torch do not write all of them."""


class WeightsDoNotFitError(ValueError):
    """A weight is missing, has another shape, or has no place; the message names it."""


def load_weights(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Copy weights and buffers by name; constants of generated code only where both have them.

    Args:
        module: changed in place, unless this raises.
        state: of a module of the same architecture.

    Raises:
        WeightsDoNotFitError: the architectures differ.
    """
    own = module.state_dict()
    generated = _generated_parts(module)
    found = {name: value for name, value in state.items() if not _empty(value)}

    def is_constant(name: str) -> bool:
        return name.startswith(generated) or name.endswith(_DERIVED)

    for name, value in own.items():
        if not (_empty(value) or is_constant(name)) and name not in found:
            raise WeightsDoNotFitError(f"no {name}")
    taken = {}
    for name, value in found.items():
        same = name in own and own[name].shape == value.shape
        if same:
            taken[name] = value
        elif not is_constant(name):
            there = "no place" if name not in own else f"{list(own[name].shape)}"
            raise WeightsDoNotFitError(f"{name} {list(value.shape)} for {there}")
    module.load_state_dict(taken, strict=False)


def _generated_parts(module: torch.nn.Module) -> tuple[str, ...]:
    """Beginnings of the names of what belongs to generated code."""
    return tuple(
        ".".join(filter(None, (path, name))) + "."
        for path, part in module.named_modules()
        for name in getattr(part, "__codegen__", ())
    )


def _empty(value: torch.Tensor) -> bool:
    return value.numel() == 0
