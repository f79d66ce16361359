"""Start from a trained backbone: fresh readouts on old weights, and training readouts alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from kan_md.errors import user_error

_READOUTS = {
    "allegro": ("edge_readout",),
    "nequip": ("per_atom_energy_readout",),
    "mace": ("readout",),
}
"""Beginnings of the names of the readout modules in each backbone's network."""


@dataclass(frozen=True)
class Transfer:
    """What became of the weights of a transfer.

    Attributes:
        taken: names that were copied from the old model.
        fresh: names that kept their initial values.
        dropped: names of the old model without a place in the new one.
    """

    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]


def is_readout(name: str, backbone: str) -> bool:
    """Whether a parameter or buffer belongs to an output readout, by its name in the model."""
    parts = name.split(".")
    return any(part.startswith(prefix) for prefix in _READOUTS[backbone] for part in parts)


def transfer_weights(
    model: torch.nn.Module, old_state: Mapping[str, torch.Tensor], *, backbone: str
) -> Transfer:
    """Copy all but the output readouts from an older model of the same architecture.

    Reference energies and scales are copied, too; set others afterwards if the labels changed.

    Args:
        model: new model, changed in place; its output readouts keep their initial weights.
        old_state: ``state_dict`` of the trained model.
        backbone: architecture of both.

    Raises:
        KanMdError: the backbones differ.
    """
    state = model.state_dict()
    body = [name for name in state if not is_readout(name, backbone)]
    for name in body:
        found = old_state.get(name)
        if found is None or found.shape != state[name].shape:
            raise user_error(
                f"weights to start from do not fit the {backbone} model at {name}",
                found="none" if found is None else list(found.shape),
                allowed=list(state[name].shape),
                remedy="give the new model the hyperparameters of the old one",
            )
    model.load_state_dict({name: old_state[name] for name in body}, strict=False)
    return Transfer(
        taken=tuple(body),
        fresh=tuple(name for name in state if name not in set(body)),
        dropped=tuple(name for name in old_state if name not in set(body)),
    )


def freeze_all_but_readouts(model: torch.nn.Module, *, backbone: str) -> tuple[str, ...]:
    """Let only the output readouts be trained.

    Args:
        model: changed in place.
        backbone: its architecture.

    Returns:
        Names of the parameters that remain trainable.
    """
    return _freeze(model, (n for n, _ in model.named_parameters() if is_readout(n, backbone)))


def _freeze(model: torch.nn.Module, trainable: Iterable[str]) -> tuple[str, ...]:
    trainable = tuple(trainable)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
    return trainable
