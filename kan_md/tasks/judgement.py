"""What any two deployed functions are compared on, and when one is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from kan_md.errors import user_error

Graph = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""The four inputs of :mod:`kan_md.contract`, in its order."""


Variants = Callable[[Graph], Iterable[Graph]]
"""A graph -> those that are compared in its place."""


class Remembered:
    """A function that computes each graph once, however often it is asked.

    Args:
        function: of the four inputs, without side effects; its results must not be changed.
    """

    def __init__(self, function: Callable):
        self._function = function
        self._known: dict[tuple[bytes, ...], tuple[torch.Tensor, ...]] = {}

    def __call__(self, *graph: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the function gives."""
        key = tuple(tensor.detach().numpy().tobytes() for tensor in graph)
        if key not in self._known:
            self._known[key] = self._function(*graph)
        return self._known[key]


def as_it_is(graph: Graph) -> Iterator[Graph]:
    """Yield a graph alone."""
    yield graph


def with_ghosts(graph: Graph) -> Iterator[Graph]:
    """Yield a graph as it is, with half of its atoms as ghosts, and with half without edges."""
    vectors, index, types, _ = graph
    half = (len(types) + 1) // 2
    yield graph
    yield vectors, index, types, torch.tensor([half])
    kept = index[0] < half  # strictly local: ghosts have no edges
    yield vectors[kept], index[:, kept], types, torch.tensor([half])
    yield vectors[kept], index[:, kept], types, torch.tensor([len(types)])


def isolated_atoms(types: torch.Tensor) -> Graph:
    """A graph of atoms without edges."""
    return (
        torch.zeros(0, 3, dtype=torch.float64),
        torch.zeros(2, 0, dtype=torch.int64),
        types,
        torch.tensor([len(types)]),
    )


def allowed_error(tolerance: float, *, rounding: float, bound: float) -> float:
    """Largest relative error of a compiled model that is not held against it.

    Args:
        tolerance: of the dtype.
        rounding: error of the *eager* model in that dtype.
        bound: error that tables were allowed to make; a result may gather the errors of several.
    """
    return max(tolerance, 2.0 * rounding, 10.0 * bound)


def hold(
    error: float, allowed: float, *, found: str, precision: str, where: str = "the reference frames"
) -> None:
    """Refuse a compiled model whose error is too large or no number.

    Args:
        error: relative to the largest value of its kind.
        allowed: largest one.
        found: the error in words.
        precision: of the compiled model, for the message.
        where: what was compared.

    Raises:
        KanMdError: it is not allowed.
    """
    if not error <= allowed:
        better = "" if precision == "float64" else " or `--dtype float64`"
        raise user_error(
            f"compiled model differs from the trained one on {where}",
            found=found,
            allowed=f"{allowed:.1e} for {precision}",
            remedy=f"deploy with `--passes none`{better}",
        )
