"""NequIP and MACE on fused operators: radial networks as tables, one convolution per layer.

An architecture is read by its module in :mod:`kan_md_deploy.passes.message_passing`, which says
whether it understands a model and gives the modules that take the place of upstream's.
"""

from __future__ import annotations

from types import ModuleType

from nequip.nn import GraphModel

from kan_md.ops import is_built
from kan_md.ops.tables import BoundNotReachedError
from kan_md_deploy.chosen_types import SequenceOfChosen
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.message_passing import mace, nequip
from kan_md_deploy.passes.module_sequence import ModuleSequence


class FusedMessagePassing:
    """The pass for one architecture; see the module.

    Args:
        name: of the pass.
        architecture: with ``is_understood(model, context)`` and ``on_operators(model, context)``,
            which gives modules by name and the largest error of a table's slope.
    """

    kinds = ("potential",)
    needs_operators = True

    def __init__(self, name: str, architecture: ModuleType):
        self.name = name
        self.architecture = architecture

    def applies_to(self, model: GraphModel, context: PassContext) -> bool:
        """Whether the model is one that is understood.

        Tables approximate: a bound of zero leaves the pass out.
        """
        return context.bound > 0 and is_built() and self.architecture.is_understood(model)

    def apply(self, model: GraphModel, context: PassContext) -> dict:
        """Replace embeddings of edges, layers and what reads their features."""
        try:
            parts, error = self.architecture.on_operators(model, context)
        except BoundNotReachedError as reason:
            return {"bound": 0.0, "skipped": str(reason)}
        report = {"bound": error, "operator": "kan_md::messages_of_first"}
        chosen = [name for name, part in parts.items() if getattr(part, "is_chosen", False)]
        if not chosen:
            model.model.func = ModuleSequence(parts)
            return report
        model.model.func = SequenceOfChosen(parts, chosen[0])
        return report | {"tables": "made when elements are chosen"}


FUSED_MACE = FusedMessagePassing("fused_mace", mace)
FUSED_NEQUIP = FusedMessagePassing("fused_nequip", nequip)
