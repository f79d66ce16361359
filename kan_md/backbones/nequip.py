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
from kan_md.errors import user_error


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


def upstream_names(hyperparameters: Mapping[str, object]) -> dict[str, object]:
    """Write Allegro's names of feature widths as nequip's ``num_features``, one number per l.

    Raises:
        KanMdError: the widths are given by both names, or one of them is missing.
    """
    names = dict(hyperparameters)
    widths = {
        name: names.pop(name)
        for name in ("num_scalar_features", "num_tensor_features")
        if name in names
    }
    if not widths:
        return names
    given = " and ".join(f"model.{name}" for name in widths)
    if "num_features" in names:
        raise user_error(
            f"{given} and model.num_features of nequip say the same",
            found=f"{', '.join(map(str, widths.values()))} and {names['num_features']}",
            allowed="one of them",
            remedy=f"leave out {given}",
        )
    for name, width in widths.items():
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise user_error(
                f"{name} of nequip",
                found=repr(width),
                allowed="a whole number >= 1",
                remedy=f"change model.{name}",
            )
    l_max = names.get("l_max", 1)
    num_tensors = l_max if isinstance(l_max, int) else 1  # else refused where all are checked
    if len(widths) < 2 and not (num_tensors == 0 and "num_scalar_features" in widths):
        raise user_error(
            "features of nequip",
            found=f"{given} alone",
            allowed="num_scalar_features with num_tensor_features, or num_features",
            remedy="add the other one",
        )
    scalars, tensors = widths["num_scalar_features"], widths.get("num_tensor_features", 0)
    return names | {"num_features": [scalars, *[tensors] * num_tensors]}


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
