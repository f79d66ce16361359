"""What an optimisation pass is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from nequip.nn import GraphModel

from kan_md.contract import Kind
from kan_md.tasks.judgement import Graph
from kan_md.tasks.potential import PotentialTask
from kan_md.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class PassContext:
    """What a pass may know besides the model.

    Attributes:
        static_shapes: whether no shape may depend on data: AOTInductor cannot compile such shapes
            and a GPU cannot replay them.
        num_types: number of atom types.
        r_max: largest cutoff, Å.
        bound: error that an approximating pass may make, relative to the output's range.
        graphs: reference frames as inputs of the deployed function.
        operators: ``fused`` passes may call the project's C++ operators; with ``portable`` the file
            needs nothing but libtorch.
        task: of the model.
    """

    static_shapes: bool
    num_types: int
    r_max: float
    bound: float
    graphs: tuple[Graph, ...]
    operators: Literal["fused", "portable"] = "portable"
    task: Task = field(default_factory=PotentialTask)


class Pass(Protocol):
    """A rewrite of a frozen model that keeps the function it computes.

    Attributes:
        name: for ``--passes`` and the manifest.
        kinds: of the models that it looks at.
        needs_operators: whether the rewritten model calls C++ operators.
    """

    name: str
    kinds: tuple[Kind, ...]
    needs_operators: bool

    def applies_to(self, model: GraphModel, context: PassContext) -> bool:
        """Whether there is something to rewrite."""
        ...

    def apply(self, model: GraphModel, context: PassContext) -> dict:
        """Rewrite ``model`` in place.

        Returns:
            For the manifest; ``bound`` is the largest error of any rewritten function, relative to
            its range, 0.0 where the rewrite is exact up to rounding.
        """
        ...
