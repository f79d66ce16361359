"""The rows of the paper's tables, with the controls that it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from kan_md.errors import user_error


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model of a table.

    Attributes:
        label: in the table.
        example: configuration in kan_md/config/examples; empty where nothing is run.
        readout: that replaces the example's; None keeps it.
        paper: the paper's numbers, in the order of the table's columns; empty for a control that
            the paper has not.
    """

    label: str
    example: str = ""
    readout: dict[str, Any] | None = None
    paper: tuple[Any, ...] = ()

    def content(self) -> dict[str, Any]:
        """Of the configuration file."""
        text = (files("kan_md.config") / "examples" / f"{self.example}.yaml").read_text()
        content = yaml.safe_load(text)
        if self.readout is not None:
            content["readout"] = dict(self.readout)
        return content


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper.

    Attributes:
        name: ``table2`` ... ``table9``.
        title: what it is about.
        system: which data it needs, a key of :data:`kan_md.reproduce.data.SYSTEMS`.
        columns: names of the paper's numbers.
        compare: name of one of our errors by the column that it stands beside.
        rows: the paper's first, then the controls.
    """

    name: str
    title: str
    system: str
    columns: tuple[str, ...]
    compare: dict[str, str] = field(default_factory=dict)
    rows: tuple[Row, ...]

    @property
    def heading(self) -> str:
        """``Table 2: silver, ...``."""
        return f"Table {self.name.removeprefix('table')}: {self.title}"

    def value(self, row: Row, column: str) -> float | None:
        """One of the paper's numbers; None where it has none."""
        return row.paper[self.columns.index(column)] if row.paper else None


@cache
def all_tables() -> dict[str, Table]:
    """Every table by name."""
    content = yaml.safe_load((files("kan_md.reproduce") / "paper.yaml").read_text())
    return {name: _table(name, entry) for name, entry in content.items()}


def choose_tables(names: Sequence[str]) -> list[Table]:
    """The tables of these names, all where there are none.

    Raises:
        KanMdError: there is no such table.
    """
    tables = all_tables()
    for name in names:
        if name not in tables:
            raise user_error(
                "table of the paper",
                found=name,
                allowed=", ".join(tables),
                remedy="name one or more of them, or none for all",
            )
    return [tables[name] for name in names or tables]


def _table(name: str, entry: dict[str, Any]) -> Table:
    rows = [
        Row(
            label=label,
            example=row.get("example", ""),
            readout=row.get("readout"),
            paper=tuple(row["paper"]),
        )
        for label, row in entry["rows"].items()
    ]
    first = next((row for row in rows if row.example), None)
    for label, readout in entry.get("added", {}).items():
        assert first is not None, name
        rows.append(Row(label=label, example=first.example, readout=readout))
    return Table(
        name=name,
        title=entry["title"],
        system=entry["system"],
        columns=tuple(entry["columns"]),
        compare=entry.get("compare", {}),
        rows=tuple(rows),
    )
