"""Modules that share everything with another but for one module inside."""

from __future__ import annotations

import copy

import torch


def with_module_replaced(
    module: torch.nn.Module, name: str, replacement: torch.nn.Module
) -> torch.nn.Module:
    """The same module, sharing all that it owns, but for one of those inside."""
    changed = copy.copy(module)
    changed._modules = {**module._modules, name: replacement}
    return changed
