"""How far two deployed functions of a potential are apart: energies, forces and virials.

Energies of atoms are judged twice, since the reference energies of isolated atoms may be a thousand
times larger than what holds a crystal together: those of isolated atoms of every type by
themselves, and what is left of every other atom's energy without them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kan_md.tasks.judgement import (
    Graph,
    Variants,
    allowed_error,
    hold,
    isolated_atoms,
    with_ghosts,
)

TOLERANCE = {"float64": 1e-9, "float32": 1e-5, "tf32": 1e-2}
"""Largest |compiled - eager|, of a force relative to the largest force, of an energy relative to
the largest energy of an atom without that of an isolated one."""

_CANCEL = 0.05
"""Where the virial's terms cancel to less than this part of the sum of their sizes, as in a crystal
at rest, its error is taken relative to that part."""
_AT_ONCE = 16
_LAST_DIGITS = 8 * torch.finfo(torch.float64).eps
"""Of an energy in float64, as all models give it, relative to itself."""


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """Largest differences of a function from its reference.

    Attributes:
        energy: eV per atom, of whole frames.
        force: relative to the largest force.
        virial: relative to the largest component of the virial, or to a part of the sum of its
            terms' sizes where they cancel.
        binding: of an atom's energy without that of an isolated atom of its type, relative to the
            largest such energy.
        isolated: of the energy of an isolated atom, relative to the same.
        magnitude: largest energy of an atom, relative to the same.
    """

    energy: float
    force: float
    virial: float
    binding: float = 0.0
    isolated: float = 0.0
    magnitude: float = 0.0


def deviation(
    function: Callable,
    reference: Callable,
    graphs: Sequence[Graph],
    *,
    variants: Variants = with_ghosts,
) -> Deviation:
    """Compare two functions of the contract on variants of graphs, by default with ghosts.

    Forces are compared per atom, as sums of edge forces, relative to the largest over all graphs.
    Every type of the graphs is compared as an isolated atom, too.
    """
    types = torch.cat([graph[2] for graph in graphs]).unique()
    row = torch.zeros(int(types.max()) + 1, dtype=torch.int64)
    row[types] = torch.arange(len(types))
    expected_alone, actual_alone = (isolated_energies(f, types) for f in (reference, function))
    alone = _largest(actual_alone - expected_alone)
    energy = force = virial = binding = 0.0
    force_scale = virial_scale = binding_scale = 0.0
    for whole in graphs:
        for graph in variants(whole):
            expected, actual = _summed(reference, graph), _summed(function, graph)
            local = row[graph[2][: int(graph[3])]]
            bound, found = (
                part[0] - by_type[local]
                for part, by_type in ((expected, expected_alone), (actual, actual_alone))
            )
            difference = [
                (actual[0].sum() - expected[0].sum()).abs().item() / len(graph[2]),
                _largest(actual[1] - expected[1]),
                _largest(actual[2] - expected[2]),
                _largest(found - bound),
                alone,
            ]
            if not all(d == d for d in difference):
                nothing = float("nan")
                return Deviation(energy=nothing, force=nothing, virial=nothing, binding=nothing)
            energy = max(energy, difference[0])
            force, virial = max(force, difference[1]), max(virial, difference[2])
            binding = max(binding, difference[3])
            force_scale = max(force_scale, _largest(expected[1]))
            virial_scale = max(virial_scale, _largest(expected[2]), _CANCEL * expected[3])
            binding_scale = max(binding_scale, _largest(bound))
    return Deviation(
        energy=energy,
        force=_relative(force, force_scale),
        virial=_relative(virial, virial_scale),
        binding=_relative(binding, binding_scale),
        isolated=_relative(alone, binding_scale),
        magnitude=_relative(_largest(expected_alone), binding_scale),
    )


def isolated_energies(function: Callable, types: torch.Tensor) -> torch.Tensor:
    """Energies of atoms without neighbours, [num_types], eV.

    Args:
        function: of the contract.
        types: [num_types]; a few at a time, for upstream's products take megabytes per atom.
    """
    parts = [_summed(function, isolated_atoms(some))[0] for some in types.split(_AT_ONCE)]
    return torch.cat(parts)


def _largest(values: torch.Tensor) -> float:
    return values.abs().max().item() if values.numel() else 0.0


def _relative(value: float, scale: float) -> float:
    return value / max(scale, torch.finfo(torch.float64).tiny) if value > 0 else 0.0


def check(
    found: Deviation,
    *,
    precision: str,
    rounding: float | Deviation,
    bound: float,
    where: str = "the reference frames",
) -> None:
    """Refuse a compiled model that is not the trained one.

    Args:
        found: compiled against eager, both judged by eager float64 arithmetic.
        precision: ``float64``, ``float32`` or ``tf32``.
        rounding: deviation of the *eager* model in its dtype from float64, or one number for all
            parts of it; where a model's own rounding is larger than the tolerance, compiling it
            must not be blamed for it.
        bound: error that tables were allowed to make; a force may gather the errors of several.
        where: what was compared, for the message.

    Raises:
        KanMdError: the deviation is above the tolerance or is not a number.
    """
    own = rounding if isinstance(rounding, Deviation) else _alike(rounding)

    def allowed(part: float) -> float:
        return allowed_error(TOLERANCE[precision], rounding=part, bound=bound)

    hold(
        max(found.force, found.virial),
        allowed(own.force),
        found=f"relative force error {found.force:.1e}, virial {found.virial:.1e}",
        precision=precision,
        where=where,
    )
    last_digits = _LAST_DIGITS * found.magnitude
    for value, own_part, atoms in (
        (found.isolated, own.isolated, "isolated atoms"),
        (found.binding, own.binding, "bound atoms"),
    ):
        hold(
            value,
            allowed(own_part) + last_digits,
            found=f"relative energy error {value:.1e} of {atoms}",
            precision=precision,
            where=where,
        )


def _alike(value: float) -> Deviation:
    return Deviation(energy=value, force=value, virial=value, binding=value, isolated=value)


def _summed(function: Callable, graph: Graph) -> list:
    """Energies of local atoms, forces [num_atoms, 3], virial [3, 3], and Σ |r| |f| over edges."""
    vectors, index, types, num_local = graph
    energies, edge_forces = function(*graph)
    edge_forces = edge_forces.cpu()
    forces = torch.zeros(len(types), 3, dtype=torch.float64)
    forces.index_add_(0, index[0], edge_forces)
    forces.index_add_(0, index[1], -edge_forces)
    virial = -torch.einsum("ea,eb->ab", vectors, edge_forces)
    size = (vectors.norm(dim=1) * edge_forces.norm(dim=1)).sum().item()
    local = energies.detach().cpu().view(-1)[: int(num_local)]
    return [local, forces, virial, size]
