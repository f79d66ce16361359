"""Modules that hyperparameters name by ``_target_``: upstream's and no others."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence

import torch

from kan_md.errors import user_error

_PACKAGES = ("allegro.nn", "nequip.nn", "kan_md.backbones")


def check_targets(value: object) -> None:
    """Refuse hyperparameters that name anything but a module of upstream's.

    Hydra calls whatever a ``_target_`` names, so a model file could run code by it.

    Args:
        value: hyperparameters, nested as they are.

    Raises:
        KanMdError: a ``_target_`` is none of upstream's torch modules.
    """
    for target in _targets(value):
        if not _is_upstream_module(target):
            raise user_error(
                "_target_ of a hyperparameter",
                found=repr(target),
                allowed="modules of allegro.nn and nequip.nn",
                remedy="name one of upstream's modules",
            )


def _targets(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "_target_":
                yield item
            yield from _targets(item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _targets(item)


def _is_upstream_module(target: object) -> bool:
    """Whether upstream defines it, as a torch module or a function offered to make one."""
    path, _, name = str(target).rpartition(".")
    if not any(path == package or path.startswith(f"{package}.") for package in _PACKAGES):
        return False
    try:
        module = importlib.import_module(path)
    except ImportError:
        return False
    found = getattr(module, name, None)
    is_module = isinstance(found, type) and issubclass(found, torch.nn.Module)
    is_offered = callable(found) and name in getattr(module, "__all__", ())
    return (is_module or is_offered) and found.__module__.startswith(_PACKAGES)
