"""From rows, seeds and a budget to runs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kan_md.config.sizes import SMALL_ALLEGRO
from kan_md.errors import user_error
from kan_md.reproduce.data import Source
from kan_md.reproduce.tables import Row, Table
from kan_md.runs import Run

Size = Literal["small", "paper"]
SMALL: dict[str, dict[str, Any]] = {
    "allegro": SMALL_ALLEGRO,
    "nequip": {
        "l_max": 1,
        "parity": False,
        "num_layers": 2,
        "num_features": 16,
        "radial_mlp_depth": 1,
        "radial_mlp_width": 32,
    },
    "mace": {
        "hidden_irreps": "16x0e + 16x1o",
        "max_ell": 2,
        "correlation": 2,
        "radial_MLP": [32, 32],
        "dtype": "float32",
    },
    "etgnn": {},
}
"""What the small model has instead of the file's hyperparameters: the one that carries the
statistics, for the full-size one takes days per seed."""
_SMALL_KAN = [8, 4]
"""Widths D/2, D/4 of the authors' MACE readout for D = 16."""
SHORTEST = 60.0
"""s; a training that is shorter is mostly its start."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the rows are run.

    Attributes:
        seeds: of every row.
        size: the small model, or that of the files.
        seconds: of each run, start-up included; None where epochs count.
        epochs: of each run; None for those of the files.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    seeds: tuple[int, ...]
    size: Size
    seconds: float | None
    epochs: int | None = None
    device: str

    def run(self, table: Table, row: Row, seed: int, source: Source) -> Run:
        """A row's training with a seed."""
        content = self.content(row, source)
        content["training"]["seed"] = seed
        words = "".join(c if c.isalnum() else "-" for c in row.label)
        return Run(f"{table.name}-{words}-{seed}", content)

    def content(self, row: Row, source: Source) -> dict[str, Any]:
        """Configuration of a row but for the seed."""
        content = copy.deepcopy(row.content())
        content["data"] = dict(source.section)
        training = content["training"]
        if self.size == "small":
            small = SMALL[content["model"]["backbone"]]
            content["model"] |= small
            if content["model"]["backbone"] == "mace" and content["readout"].get("hidden"):
                content["readout"]["hidden"] = _SMALL_KAN
        end = {"max_time": self.seconds, "epochs": self.epochs}
        end = {key: value for key, value in end.items() if value is not None}
        if end:
            # A plateau is not reached within a given length; a cosine ends with it.
            for key in ("epochs", "early_stop", "stages"):
                training.pop(key, None)
            training |= {**end, "schedule": {"name": "cosine"}}
        training["device"] = self.device
        return content


def chosen_rows(table: Table, labels: Sequence[str]) -> list[Row]:
    """The rows of these labels that are run, all where there are none."""
    rows = [row for row in table.rows if row.example]
    return [row for row in rows if not labels or row.label in labels]


def check_rows(tables: Sequence[Table], labels: Sequence[str]) -> None:
    """Refuse a label that no table has.

    Raises:
        KanMdError: there is one.
    """
    known = list(dict.fromkeys(r.label for t in tables for r in t.rows if r.example))
    for label in labels:
        if label not in known:
            raise user_error(
                "row of the tables", found=label, allowed=", ".join(known), remedy="change --row"
            )


def share_of_budget(budget: float | None, number: int, jobs: int) -> float | None:
    """Seconds of each run: all have the same, and together they take the budget.

    Where that would be less than :data:`SHORTEST`, it is that, and the budget ends before all runs
    are done; the same command goes on with the others then.
    """
    if budget is None or number == 0:
        return None
    return max(SHORTEST, float(int(budget * jobs / number)))
