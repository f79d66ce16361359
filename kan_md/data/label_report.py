"""What is noticed while labels are read, and what structures are called in messages."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ase import Atoms


@dataclass
class LabelReport:
    """What was noticed while labels were collected.

    Attributes:
        names: of all entries and columns of all structures.
        renamed: structures by label and the name that it was read from.
        doubled: structures by label, name that was read, and another one with other numbers.
        dropped: structures by label and the reason why it does not count.
        examples: the first structure of each entry of ``dropped``.
        notes: further remarks.
    """

    names: set[str] = field(default_factory=set)
    renamed: Counter[tuple[str, str]] = field(default_factory=Counter)
    doubled: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def drop(self, label: str, reason: str, atoms: Atoms) -> None:
        """Count a label that is left out."""
        self.dropped[label, reason] += 1
        self.examples.setdefault((label, reason), source_of(atoms))

    def lines(self) -> list[str]:
        """One line for each thing that a user should know."""
        lines = [
            f"{label} is read from {name} ({count} structures)"
            for (label, name), count in self.renamed.items()
        ]
        lines += [
            f"{label} is read from {name}; {other} differs in {count} structures "
            f"(data.keys.{label}: {other} reads that)"
            for (label, name, other), count in self.doubled.items()
        ]
        lines += [
            f"{label} left out of {count} structures: {reason} (first {self.examples[key]})"
            for key, count in self.dropped.items()
            for label, reason in [key]
        ]
        return lines + self.notes


def source_of(atoms: Atoms) -> str:
    """What to call a structure in a message."""
    return str(atoms.info.get("source", atoms.get_chemical_formula()))


def config_type_of(atoms: Atoms) -> str | None:
    """The group that a file puts a structure into."""
    value = atoms.info.get("config_type")
    return None if value is None else str(value)
