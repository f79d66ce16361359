"""Whether the order that the paper finds is found again, beyond the noise of the seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from kan_md.reproduce.tables import Table
from kan_md.runs.statistics import paired_change

SIGMAS = 2.0
"""Standard errors by which a paired difference must be off zero to count."""


@dataclass(frozen=True)
class Verdict:
    """What became of the pairs of rows that the paper orders by one column.

    Attributes:
        column: of the paper.
        part: ``val`` or ``test``, on which ours were compared.
        same: pairs in the same order.
        reversed: pairs in the other order.
        undecided: pairs within the noise, or with a single seed.
        missing: pairs without two rows that ran.
        best: the paper's best rows, and ours by the mean.
    """

    column: str
    part: str
    same: list[tuple[str, str]]
    reversed: list[tuple[str, str]]
    undecided: list[tuple[str, str]]
    missing: list[tuple[str, str]]
    best: tuple[list[str], str | None]

    @property
    def answer(self) -> str:
        """``yes``, ``no``, ``in part``, ``not decided`` or ``not run``."""
        if self.reversed:
            return "in part" if self.same else "no"
        if self.undecided or (self.same and self.missing):
            return "not decided"
        return "yes" if self.same else "not run"

    @property
    def text(self) -> str:
        """One sentence."""
        counts = (
            f"of {sum(map(len, (self.same, self.reversed, self.undecided, self.missing)))} pairs "
            f"that it orders, {len(self.same)} come out the same, {len(self.reversed)} the other "
            f"way round, {len(self.undecided)} within {SIGMAS:g} paired standard errors or of one "
            f"seed, {len(self.missing)} were not run"
        )
        paper, ours = " and ".join(self.best[0]), self.best[1]
        here = "" if ours is None else f"; best there: {paper}, here by the mean: {ours}"
        turned = "".join(f"; {a} is not better than {b}" for a, b in self.reversed)
        return f"Ranking by {self.column} ({self.part}): **{self.answer}**: {counts}{here}{turned}."


def judge(
    table: Table, column: str, part: str, values: Mapping[str, Mapping[int, float]]
) -> Verdict:
    """Compare the order of the paper's rows by a column with ours.

    Args:
        table: of the paper.
        column: of the paper's numbers.
        part: of the data on which ours are.
        values: our errors by row and seed.
    """
    paper = {row.label: table.value(row, column) for row in table.rows if row.paper}
    pairs: dict[str, list[tuple[str, str]]] = {
        name: [] for name in ("same", "reversed", "undecided", "missing")
    }
    for first, second in combinations(paper, 2):
        if paper[first] == paper[second]:
            continue
        better, worse = sorted((first, second), key=paper.__getitem__)
        change = paired_change(values.get(better, {}), values.get(worse, {}))
        if change is None:
            name = "missing"
        elif change.sigmas is None or abs(change.sigmas) < SIGMAS:
            name = "undecided"
        else:
            name = "same" if change.mean < 0 else "reversed"
        pairs[name].append((better, worse))
    least = min(paper.values())
    means = {r: sum(v.values()) / len(v) for r, v in values.items() if v and r in paper}
    best = min(means, key=means.__getitem__) if means else None
    return Verdict(
        column, part, **pairs, best=([r for r, value in paper.items() if value == least], best)
    )
