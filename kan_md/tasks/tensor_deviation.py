"""How far two deployed functions of a tensor model are apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from kan_md.tasks.judgement import (
    Graph,
    Variants,
    allowed_error,
    hold,
    isolated_atoms,
    with_ghosts,
)

TOLERANCE = {"float64": 1e-9, "float32": 2e-5, "tf32": 1e-2}
"""Largest |compiled - eager float64| of a component, relative to the tensor's largest component."""

_ZERO = 1e-6
"""Part of the largest component of any tensor below which another one counts as zero."""


def tensor_deviations(
    function: Callable,
    reference: Callable,
    graphs: Sequence[Graph],
    columns: Mapping[str, slice],
    *,
    variants: Variants = with_ghosts,
) -> dict[str, float]:
    """Largest difference of each tensor, relative to its largest component.

    Variants of the graphs are tried, by default those with ghosts, and every type alone.

    Args:
        function: what is judged.
        reference: what it should be, in float64.
        graphs: inputs of both.
        columns: of each tensor, by name.
        variants: of each graph.
    """
    differences, scales = dict.fromkeys(columns, 0.0), dict.fromkeys(columns, 0.0)
    types = torch.cat([graph[2] for graph in graphs]).unique()
    tried = [variant for whole in graphs for variant in variants(whole)]
    for graph in (*tried, isolated_atoms(types)):
        (actual,), (expected,) = function(*graph), reference(*graph)
        actual = actual.cpu()
        for name, part in columns.items():
            worst = (actual[:, part] - expected[:, part]).abs().max().item()
            before = differences[name]
            differences[name] = worst if worst != worst else max(before, worst)
            scales[name] = max(scales[name], expected[:, part].abs().max().item())
    # A tensor that symmetry makes zero has no size of its own.
    least = max(_ZERO * max(scales.values()), torch.finfo(torch.float64).tiny)
    return {name: value / max(scales[name], least) for name, value in differences.items()}


def check(
    found: Mapping[str, float],
    *,
    rounding: Mapping[str, float],
    precision: str,
    bound: float,
    where: str = "the reference frames",
) -> None:
    """Refuse a compiled model that is not the trained one, see :class:`kan_md.tasks.task.Task`.

    Raises:
        KanMdError: the deviation of a tensor is above the tolerance or is not a number.
    """
    for name, error in found.items():
        hold(
            error,
            allowed_error(TOLERANCE[precision], rounding=rounding[name], bound=bound),
            found=f"relative error {error:.1e} of {name}",
            precision=precision,
            where=where,
        )
