"""Sums of squares of errors that are linear in the unknowns, and their minimum.

Σ (X c + x_0 - y)² = cᵀ A c - 2 bᵀ c + s is kept as A, b and s: it does not grow with the data, and
sums over other data are added to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

NAMES = ("energy", "forces", "stress")


@dataclass
class SquareSum:
    """Of one kind of labels.

    Attributes:
        matrix: A, [size, size] float64.
        vector: b, [size].
        constant: s.
        count: number of labels.
    """

    matrix: torch.Tensor
    vector: torch.Tensor
    constant: float = 0.0
    count: int = 0

    @classmethod
    def empty(cls, size: int) -> SquareSum:
        """Of no data."""
        return cls(torch.zeros(size, size).double(), torch.zeros(size).double())

    def add(self, rows: torch.Tensor, labels: torch.Tensor, weight: float = 1.0) -> None:
        """Add labels [n], of which NaN are none, with rows [n, size + 1], see ``Rows``."""
        known = ~labels.isnan()
        x, target = rows[known, :-1], labels[known] - rows[known, -1]
        self.matrix += weight * (x.T @ x)
        self.vector += weight * (x.T @ target)
        self.constant += weight * float(target @ target)
        self.count += int(known.sum())

    def plus(self, other: SquareSum, factor: float = 1.0) -> SquareSum:
        """The sum over both data."""
        return SquareSum(
            self.matrix + factor * other.matrix,
            self.vector + factor * other.vector,
            self.constant + factor * other.constant,
            self.count + round(factor * other.count),
        )

    def rms(self, c: torch.Tensor) -> float | None:
        """Root mean square error with these unknowns; None without labels."""
        if not self.count:
            return None
        total = float(c @ self.matrix @ c - 2.0 * self.vector @ c) + self.constant
        return (max(0.0, total) / self.count) ** 0.5


Sums = dict[str, SquareSum]
"""By the name of the labels."""


def weighted(sums: Sums, weights: Mapping[str, float]) -> SquareSum:
    """The loss: Σ weight · mean square, as one sum whose count is 1."""
    size = len(next(iter(sums.values())).vector)
    total = SquareSum.empty(size)
    for name, one in sums.items():
        if one.count and weights.get(name, 0.0) > 0.0:
            total = total.plus(one, weights[name] / one.count)
    total.count = 1
    return total


@dataclass(frozen=True)
class Solution:
    """A minimum.

    Attributes:
        c: [size].
        ridge: weight that the distance to the start had.
        smoothness: weight that curvature had.
    """

    c: torch.Tensor
    ridge: float
    smoothness: float


def regularised(
    loss: SquareSum, roughness: torch.Tensor, *, ridge: float, smoothness: float
) -> torch.Tensor:
    """A with its penalties, [size, size]: what is solved with, and the precision of the posterior.

    The ridge is measured by the diagonal of A, so that it does not depend on units of columns; the
    smoothness by the trace, so that it does not on the number of data.
    """
    diagonal = loss.matrix.diagonal()
    diagonal = diagonal + 1e-6 * diagonal.mean() + torch.finfo(torch.float64).tiny
    trace = roughness.diagonal().sum()
    curved = smoothness * loss.matrix.diagonal().sum() / trace if trace > 0.0 else 0.0
    return loss.matrix + ridge * torch.diag(diagonal) + curved * roughness


def solve(
    loss: SquareSum,
    start: torch.Tensor,
    roughness: torch.Tensor,
    *,
    ridge: float,
    smoothness: float,
) -> torch.Tensor:
    """The minimum of loss + ridge · |c - start|² + smoothness · ∫ φ''².

    Args:
        loss: see :func:`weighted`.
        start: [size], the trained values.
        roughness: see :meth:`kan_md.solve.unknowns.Unknowns.roughness`.
        ridge: weight, see :func:`regularised`.
        smoothness: likewise.
    """
    full = regularised(loss, roughness, ridge=ridge, smoothness=smoothness)
    curved = full - regularised(loss, roughness, ridge=ridge, smoothness=0.0)
    pull = loss.vector - loss.matrix @ start - curved @ start
    values, vectors = torch.linalg.eigh(full)
    kept = values > 1e-14 * values[-1]
    inverse = torch.where(kept, 1.0 / torch.where(kept, values, 1.0), 0.0)
    return start + vectors @ (inverse * (vectors.T @ pull))


RIDGES = tuple(10.0**power for power in range(-8, 2))
SMOOTHNESSES = (0.0, *(10.0**power for power in range(-8, 0)))

NEARLY = 1.01
"""Root mean squares up to so many times the best one are as good; the solution nearest to the start
is taken of them. Large coefficients that cancel are nothing that float32 should sum."""


def best_solution(
    loss: SquareSum, judge: SquareSum, start: torch.Tensor, roughness: torch.Tensor
) -> Solution | None:
    """The minimum whose penalties do best on other data; None where the start does better.

    Of those that do nearly as well, the one nearest to the start, see :data:`NEARLY`.

    Args:
        loss: to minimise.
        judge: the same loss of the other data.
        start: [size].
        roughness: see :func:`solve`.
    """
    candidates = [
        Solution(solve(loss, start, roughness, ridge=r, smoothness=s), r, s)
        for s in (SMOOTHNESSES if roughness.any() else (0.0,))
        for r in RIDGES
    ]
    scores = [judge.rms(candidate.c) for candidate in candidates]
    if min(scores) >= judge.rms(start):
        return None
    good = [
        candidate
        for candidate, score in zip(candidates, scores, strict=True)
        if score <= min(NEARLY * min(scores), judge.rms(start))
    ]
    return min(good, key=lambda candidate: float((candidate.c - start).square().sum()))
