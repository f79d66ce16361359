"""What a step costs on many ranks: a model, fitted to measured processor time, on a stated network.

    processor time of all ranks = a N + b G + c P        fitted, see :func:`fit_costs`
    time of a step = a N/P + b g + c + m t_latency + 2 w g / bandwidth

with N atoms, P ranks, G ghosts in all and g of one rank, w bytes of an atom's features in all
exchanges. Domains are cubes of a cubic box, so that g follows from the density and the cutoff.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

LATENCY = 2e-6
"""s per message, of the network that is assumed."""
BANDWIDTH = 10e9
"""bytes/s of each rank, of the network that is assumed."""


@dataclass(frozen=True)
class Costs:
    """Processor seconds of one step.

    Attributes:
        atom: a, per atom.
        ghost: b, per ghost of a rank.
        rank: c, per rank.
    """

    atom: float
    ghost: float
    rank: float


def fit_costs(cases: Sequence[tuple[int, int, int, float]]) -> Costs:
    """Least squares of relative errors; no cost is less than zero.

    Args:
        cases: (atoms, ranks, ghosts of all ranks, processor seconds of all ranks) of each.
    """
    from scipy.optimize import nnls

    found = np.array(cases, dtype=float)
    seconds = found[:, 3]
    matrix = found[:, [0, 2, 1]] / seconds[:, None]
    costs, _ = nnls(matrix, np.ones(len(found)))
    return Costs(*map(float, costs))


def step_seconds(
    costs: Costs,
    *,
    atoms: int,
    ranks: int,
    density: float,
    cutoff: float,
    exchanges: int,
    row_bytes: int,
) -> float:
    """Time of a step by the model.

    Args:
        costs: fitted.
        atoms: N.
        ranks: P.
        density: atoms per Å³.
        cutoff: of the edges, Å.
        exchanges: between layers, forward; as many gradients go back.
        row_bytes: of an atom's features in one exchange.
    """
    side = (atoms / density / ranks) ** (1 / 3)
    box = (atoms / density) ** (1 / 3)
    reach = min(side + 2 * cutoff, box)  # images of an atom are one row
    ghosts = density * (reach**3 - side**3)
    across = min(2 * ceil(cutoff / side) + 1, ceil(box / side - 1e-9))
    messages = (across**3 - 1) * (2 * exchanges + 1)
    work = costs.atom * atoms / ranks + costs.ghost * ghosts + costs.rank
    return work + messages * LATENCY + 2 * exchanges * row_bytes * ghosts / BANDWIDTH
