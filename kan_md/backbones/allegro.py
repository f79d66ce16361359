"""Allegro with KANs: upstream's builder, with readouts put at the sites that are asked for.

Musaelian et al., Nat. Commun. 2023;14:579. Nothing of upstream is repeated here: its builder makes
the model, and the functions at these sites are exchanged:

==========  =====================================  ======================================
site        upstream module                        acts on
==========  =====================================  ======================================
output      ``edge_readout``                       all scalar features of an edge
two_body    ``scalar_embed_mlp``                   radial-chemical embedding of an edge
latent      ``allegro.latents[i]``, every layer    scalars after each tensor product
==========  =====================================  ======================================
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from allegro.model import AllegroModel
from nequip.model import model_builder

from kan_md.backbones.readout import ReadoutConfig, parse_readout
from kan_md.backbones.sites import FunctionSlot, put_readouts

BESSEL_EMBED = {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 8}


@model_builder
def AllegroKANModel(  # noqa: N802 - upstream names its builders like classes
    *,
    readout: ReadoutConfig | Mapping | None = None,
    radial_chemical_embed: Mapping | None = None,
    **hyperparameters: object,
) -> torch.nn.Module:
    """Allegro with a KAN readout; a target for ``nequip-train`` configurations.

    Args:
        readout: see :class:`kan_md.backbones.readout.ReadoutConfig`.
        radial_chemical_embed: upstream's; eight Bessel functions where ``None``.
        **hyperparameters: those of :func:`allegro.model.AllegroModel`.

    Returns:
        What upstream's builder returns, with readouts exchanged.
    """
    model = AllegroModel(
        radial_chemical_embed=dict(radial_chemical_embed or BESSEL_EMBED), **hyperparameters
    )
    put_readouts(sites(model), parse_readout(readout), backbone="allegro")
    return model


def sites(model: torch.nn.Module) -> dict[str, list[FunctionSlot]]:
    """Slots of an Allegro model by site.

    Args:
        model: what the builder returns, or a module that holds it.
    """
    (energy,) = (m for m in model.modules() if hasattr(m, "edge_readout"))
    latents = energy.allegro.latents
    return {
        "output": [FunctionSlot(energy.edge_readout, "mlp_module")],
        "two_body": [FunctionSlot(energy.scalar_embed_mlp, "mlp_module")],
        "latent": [
            FunctionSlot(latents, str(index), f"layer {index + 1}") for index in range(len(latents))
        ],
    }


FUNCTIONS_ON_EDGES = True
"""Networks act on edges, and what they are given depends on the edges of one centre alone."""


def num_layers(model: torch.nn.Module) -> int:
    """Hops that an atom's energy depends on: Allegro is strictly local."""
    return 1
