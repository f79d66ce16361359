"""What an optimisation pass is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from nequip.nn import GraphModel

from kan_md.contract import Kind
from kan_md_deploy.verify import Graph, deviation
from kan_md_deploy.wrapper import make_edge_model


def change_of_potential(
    after: GraphModel, before: GraphModel, graphs: Sequence[Graph]
) -> dict[str, float]:
    """What rewriting a potential changed on some graphs."""
    found = deviation(make_edge_model(after), make_edge_model(before), list(graphs))
    return {"energy_change": found.energy, "force_change": found.force}


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
        kind: of the model; a potential is differentiated, tensors are not.
        change: measures what an approximating pass changed, for its report.
    """

    static_shapes: bool
    num_types: int
    r_max: float
    bound: float
    graphs: tuple[Graph, ...]
    operators: Literal["fused", "portable"] = "portable"
    kind: Kind = "potential"
    change: Callable[[GraphModel, GraphModel, Sequence[Graph]], dict[str, float]] = (
        change_of_potential
    )


class Pass(Protocol):
    """A rewrite of a frozen model that keeps the function it computes.

    Attributes:
        name: for ``--passes`` and the manifest.
        needs_operators: whether the rewritten model calls C++ operators.
    """

    name: str
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
