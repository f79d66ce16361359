"""Holding a compiled file against the eager model on the checkpoint's reference frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from kan_md.errors import user_error

Graph = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""The four inputs of :mod:`kan_md.contract`, in its order."""

TOLERANCE = {"float64": 1e-9, "float32": 1e-5, "tf32": 1e-2}
"""Largest |compiled - eager| of a force, relative to the largest force."""

_CANCEL = 0.05
"""Where the virial's terms cancel to less than this part of the sum of their sizes, as in a crystal
at rest, its error is taken relative to that part."""


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """Largest differences of a function from its reference.

    Attributes:
        energy: eV per atom, of whole frames.
        force: relative to the largest force.
        virial: relative to the largest component of the virial, or to a part of the sum of its
            terms' sizes where they cancel.
    """

    energy: float
    force: float
    virial: float


def with_ghosts(graph: Graph) -> Iterator[Graph]:
    """Yield a graph as it is, with half of its atoms as ghosts, and without edges."""
    vectors, index, types, _ = graph
    yield graph
    yield vectors, index, types, torch.tensor([(len(types) + 1) // 2])
    local = index[0] < (len(types) + 1) // 2  # strictly local: ghosts have no edges
    yield vectors[local], index[:, local], types, torch.tensor([(len(types) + 1) // 2])
    yield vectors[:0], index[:, :0], types, torch.tensor([len(types)])


def deviation(function: Callable, reference: Callable, graphs: list[Graph]) -> Deviation:
    """Compare two functions of the contract on graphs and on their variants with ghosts.

    Forces are compared per atom, as sums of edge forces, relative to the largest over all graphs.
    """
    energy = force = virial = 0.0
    force_scale = virial_scale = 0.0
    for whole in graphs:
        for graph in with_ghosts(whole):
            expected, actual = _summed(reference, graph), _summed(function, graph)
            pairs = zip(actual[:3], expected[:3], strict=True)
            difference = [(a - e).abs().max().item() for a, e in pairs]
            if not all(d == d for d in difference):
                return Deviation(energy=float("nan"), force=float("nan"), virial=float("nan"))
            energy = max(energy, difference[0] / len(graph[2]))
            force, virial = max(force, difference[1]), max(virial, difference[2])
            force_scale = max(force_scale, expected[1].abs().max().item())
            virial_scale = max(virial_scale, expected[2].abs().max().item(), _CANCEL * expected[3])
    tiny = torch.finfo(torch.float64).tiny
    return Deviation(
        energy=energy,
        force=force / max(force_scale, tiny) if force > 0 else 0.0,
        virial=virial / max(virial_scale, tiny) if virial > 0 else 0.0,
    )


def allowed_error(tolerance: float, *, rounding: float, bound: float) -> float:
    """Largest relative error of a compiled model that is not held against it.

    Args:
        tolerance: of the dtype.
        rounding: error of the *eager* model in that dtype.
        bound: error that tables were allowed to make; a result may gather the errors of several.
    """
    return max(tolerance, 2.0 * rounding, 10.0 * bound)


def check(found: Deviation, *, precision: str, rounding: float, bound: float) -> None:
    """Refuse a compiled model that is not the trained one.

    Args:
        found: compiled against eager, both judged by eager float64 arithmetic.
        precision: ``float64``, ``float32`` or ``tf32``.
        rounding: force deviation of the *eager* model in its dtype from float64; where a model's
            own rounding is larger than the tolerance, compiling it must not be blamed for it.
        bound: error that tables were allowed to make; a force may gather the errors of several.

    Raises:
        KanMdError: the deviation is above the tolerance or is not a number.
    """
    allowed = allowed_error(TOLERANCE[precision], rounding=rounding, bound=bound)
    hold(
        max(found.force, found.virial),
        allowed,
        found=f"relative force error {found.force:.1e}, virial {found.virial:.1e}",
        precision=precision,
    )


def hold(error: float, allowed: float, *, found: str, precision: str) -> None:
    """Refuse a compiled model whose error is too large or no number.

    Args:
        error: relative to the largest value of its kind.
        allowed: largest one.
        found: the error in words.
        precision: of the compiled model, for the message.

    Raises:
        KanMdError: it is not allowed.
    """
    if not error <= allowed:
        raise user_error(
            "compiled model differs from the trained one on the reference frames",
            found=found,
            allowed=f"{allowed:.1e} for {precision}",
            remedy="deploy with `--passes none` or `--dtype float64`",
        )


def _summed(function: Callable, graph: Graph) -> list:
    """Energy, forces [num_atoms, 3], virial [3, 3], and Σ |r| |f| over edges."""
    vectors, index, types, num_local = graph
    energies, edge_forces = function(*graph)
    forces = torch.zeros(len(types), 3, dtype=torch.float64)
    forces.index_add_(0, index[0], edge_forces.cpu())
    forces.index_add_(0, index[1], -edge_forces.cpu())
    virial = -torch.einsum("ea,eb->ab", vectors, edge_forces.cpu())
    size = (vectors.norm(dim=1) * edge_forces.cpu().norm(dim=1)).sum().item()
    return [energies.detach().cpu()[: int(num_local)].sum(), forces, virial, size]
