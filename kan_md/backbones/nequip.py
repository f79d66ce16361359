"""NequIP with a KAN readout: upstream's builder, with its per-atom readout exchanged.

Batzner et al., Nat. Commun. 2022;13:2453. The one site, ``output``, is upstream's
``per_atom_energy_readout``, which acts on the scalar features of an atom. Upstream leaves the
self-connection out of the first layer, so the features of an isolated atom are zero, and so is its
energy before the shift.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from nequip.model import NequIPGNNModel, model_builder
from nequip.nn import ConvNetLayer

from kan_md.backbones.readout import ReadoutConfig, parse_readout
from kan_md.backbones.sites import FunctionSlot, put_readouts


@model_builder
def NequIPKANModel(  # noqa: N802 - upstream names its builders like classes
    *, readout: ReadoutConfig | Mapping | None = None, **hyperparameters: object
) -> torch.nn.Module:
    """NequIP with a KAN readout; a target for ``nequip-train`` configurations.

    Args:
        readout: see :class:`kan_md.backbones.readout.ReadoutConfig`.
        **hyperparameters: those of :func:`nequip.model.NequIPGNNModel`.

    Returns:
        What upstream's builder returns, with the readout exchanged.
    """
    model = NequIPGNNModel(**hyperparameters)
    put_readouts(sites(model), parse_readout(readout), backbone="nequip")
    return model


def sites(model: torch.nn.Module) -> dict[str, list[FunctionSlot]]:
    """Slots of a NequIP model by site.

    Args:
        model: what the builder returns, or a module that holds it.
    """
    (energy,) = (m for m in model.modules() if hasattr(m, "per_atom_energy_readout"))
    return {"output": [FunctionSlot(energy.per_atom_energy_readout, "mlp_module")]}


def num_layers(model: torch.nn.Module) -> int:
    """Hops that an atom's energy depends on: one per convolution."""
    return sum(isinstance(module, ConvNetLayer) for module in model.modules())
