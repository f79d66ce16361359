"""Start from a trained backbone: fresh readouts on old weights, and training readouts alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch

from kan_md.backbones.build import adapter_of, idle_hyperparameters, sites_of
from kan_md.backbones.mace_modules import MACEReadout
from kan_md.backbones.readout import ReadoutConfig
from kan_md.backbones.readout_report import is_ours
from kan_md.errors import user_error

_READOUTS = {
    "allegro": ("edge_readout",),
    "nequip": ("per_atom_energy_readout",),
    "mace": ("readout",),
    "etgnn": ("edge_readout", "triplet_readout", "atom_readout"),
}
"""Beginnings of the names of the readout modules in each backbone's network."""

_RADIAL = {
    "allegro": ("radial_chemical_embed", "scalar_embed_mlp"),
    "nequip": ("bessel_encode", "edge_mlp"),
    "mace": ("radial_embedding", "conv_tp_weights", "density_fn"),
    "etgnn": (),
}
"""Names of the modules that see distances, or a pair's distance and types, alone."""


@dataclass(frozen=True)
class Transfer:
    """What became of the weights of a transfer.

    Attributes:
        taken: names that were copied from the old model.
        fresh: names that kept their initial values.
        dropped: names of the old model without a place in the new one.
        fresh_functions: names of the modules that start fresh, as the readouts differ.
        dropped_functions: names of the old model's without a counterpart.
    """

    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]
    fresh_functions: tuple[str, ...] = ()
    dropped_functions: tuple[str, ...] = ()


def readout_arguments(backbone: str, readout: ReadoutConfig) -> set[str]:
    """Hyperparameters that decide on readouts alone, or on nothing as a readout stands there."""
    adapter = adapter_of(backbone)
    names = adapter.hyperparameters()
    outputs = tuple(prefix for prefix, site in adapter.replaced.items() if site == "output")
    idle = idle_hyperparameters(backbone, readout, names)
    return {*idle, *adapter.of_mlp, *(name for name in names if name.startswith(outputs))}


def is_readout(name: str, backbone: str) -> bool:
    """Whether a parameter or buffer belongs to an output readout, by its name in the model."""
    parts = name.split(".")
    return any(part.startswith(prefix) for prefix in _READOUTS[backbone] for part in parts)


def transfer_weights(
    model: torch.nn.Module,
    old: torch.nn.Module,
    *,
    backbone: str,
    fresh_readout: bool = False,
    own: Collection[str] = (),
) -> Transfer:
    """Copy the weights of an older model of the same architecture.

    Functions that a readout configuration decides on are copied where both models have the same
    one, of the same basis and shape; the others start fresh.

    Args:
        model: new model, changed in place.
        old: the trained model.
        backbone: architecture of both.
        fresh_readout: leave all output readouts fresh.
        own: names in the state of ``model`` that are not to be copied.

    Raises:
        KanMdError: weights outside these functions do not fit.
    """
    state, old_state = model.state_dict(), old.state_dict()
    functions, old_functions = (_functions(m, backbone) for m in (model, old))
    fresh_functions = [
        name
        for name, function in functions.items()
        if (fresh_readout and is_readout(name, backbone))
        or name not in old_functions
        or _signature(function) != _signature(old_functions[name])
    ]
    taken = [name for name in state if name not in own and not _is_inside(name, fresh_functions)]
    for name in taken:
        found = old_state.get(name)
        if found is None or found.shape != state[name].shape:
            raise user_error(
                f"weights to start from do not fit the {backbone} model at {name}",
                found="none" if found is None else list(found.shape),
                allowed=list(state[name].shape),
                remedy="give the new model the hyperparameters of the old one",
            )
    model.load_state_dict({name: old_state[name] for name in taken}, strict=False)
    return Transfer(
        taken=tuple(taken),
        fresh=tuple(name for name in state if name not in set(taken)),
        dropped=tuple(name for name in old_state if name not in state),
        fresh_functions=tuple(map(_short, fresh_functions)),
        dropped_functions=tuple(_short(name) for name in old_functions if name not in functions),
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


def freeze_radial_functions(model: torch.nn.Module, *, backbone: str) -> tuple[str, ...]:
    """Let all but the functions of distances be trained.

    Args:
        model: changed in place.
        backbone: its architecture.

    Returns:
        Names of the parameters that remain trainable.

    Raises:
        KanMdError: the backbone has no such parts of its own.
    """
    parts = _RADIAL[backbone]
    if not parts:
        raise user_error(
            f"training.freeze of {backbone}",
            found="radial",
            allowed="none, backbone",
            remedy="set training.freeze",
        )
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return _freeze(model, (n for n in names if not set(n.split(".")) & set(parts)))


def _freeze(model: torch.nn.Module, trainable: Iterable[str]) -> tuple[str, ...]:
    trainable = tuple(trainable)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
    return trainable


def _functions(model: torch.nn.Module, backbone: str) -> dict[str, torch.nn.Module]:
    """Modules that a readout configuration decides on, by their names in the model."""
    names = {id(module): name for name, module in model.named_modules()}
    sites = sites_of(model, backbone)
    if backbone == "mace":
        # Each layer's share: upstream's block and the function beside it, either may be absent.
        found = {
            f"{name}.{child}": getattr(module, child)
            for name, module in model.named_modules()
            if isinstance(module, MACEReadout)
            for child in ("block", "beside")
            if getattr(module, child) is not None
        }
        # Upstream's networks of the distance are shaped by hyperparameters, ours by the readout.
        ours = [slot.function for slot in sites["radial"] if is_ours(slot.function)]
        return found | {names[id(function)]: function for function in ours}
    return {names[id(slot.function)]: slot.function for slots in sites.values() for slot in slots}


def _signature(function: torch.nn.Module) -> tuple[str, dict[str, tuple[int, ...]]]:
    """Kinds, bases and shapes of a function; its weights mean the same in another of that kind."""
    return repr(function), {name: tuple(w.shape) for name, w in function.state_dict().items()}


def _is_inside(name: str, modules: Iterable[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _short(name: str) -> str:
    """A module's name without the wrappers around every network."""
    skipped = {"sole_model", "model", "func", "mlp_module", "function"}
    return ".".join(part for part in name.split(".") if part not in skipped)
