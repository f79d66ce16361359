"""Allegro without tensors on edges, see :mod:`kan_md.forms.allegro`: its products become constants.

Linear maps that follow each other are multiplied out in float64. Ghosts have no edges of their own
and take no part.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from nequip.nn import GraphModel

from kan_md.forms.allegro import PARTS, FactoredAllegro, why_not
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.module_sequence import ModuleSequence, with_lengths

EDGES = "edges"
"""Name of the part on edges in the rewritten model."""


class CentreFactored:
    """The pass; see the module."""

    name = "centre_factored"
    kinds = ("potential",)
    needs_operators = False

    def applies_to(self, model: GraphModel, context: PassContext) -> bool:
        """Whether the model is an Allegro in upstream's layout."""
        return why_not(model.model.func) is None

    @torch.no_grad()
    def apply(self, model: GraphModel, context: PassContext) -> dict:
        """Replace all modules on edges by one :class:`FactoredAllegro`."""
        energy = model.model.func
        rest = OrderedDict(energy.named_children())
        fused = FactoredAllegro(
            {name: rest.pop(name) for name in PARTS},
            layout="edges" if context.static_shapes else "slots",
        )
        parts = with_lengths(rest, fused.radial.length)
        model.model.func = ModuleSequence({EDGES: fused, **parts})
        return {"bound": 0.0}
