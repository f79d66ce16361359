"""What is noticed while labels are read, and what structures are called in messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ase import Atoms


@dataclass
class LabelReport:
    """What was noticed while labels were collected.

    Attributes:
        names: of all entries and columns of all structures.
        renamed: structures by label and the name that it was read from.
        doubled: structures by label, name that was read, and another one with other numbers.
        contradicting: structures by how their virial is not -volume times their stress.
        dropped: structures by label and the reason why it does not count.
        examples: the first structure of each entry of ``dropped``.
        notes: further remarks.
    """

    names: set[str] = field(default_factory=set)
    renamed: Counter[tuple[str, str]] = field(default_factory=Counter)
    doubled: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    contradicting: Counter[str] = field(default_factory=Counter)
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
            f"{label} is read from {name} ({structures(count)})"
            for (label, name), count in self.renamed.items()
        ]
        lines += [
            f"{label} is read from {name}; {other} differs in {structures(count)} "
            f"(data.keys.{label}: {other} reads that)"
            for (label, name, other), count in self.doubled.items()
        ]
        lines += [
            f"stress is read from stress; virial {how} in {structures(count)} (-volume times the "
            "stress)"
            for how, count in self.contradicting.items()
        ]
        alike: dict[tuple[int, str, str], list[str]] = {}
        for (label, reason), count in self.dropped.items():
            alike.setdefault((count, reason, self.examples[label, reason]), []).append(label)
        lines += [
            f"{', '.join(labels)} left out of {structures(count)}: {reason} (first {example})"
            for (count, reason, example), labels in alike.items()
        ]
        return lines + self.notes

    def about(self, label: str) -> str:
        """The names that could be a label's, and why some of its labels do not count."""
        hidden = {"source", "numbers", "positions", "unique_id"}
        names = ", ".join(sorted(self.names - hidden)) or "no labels"
        reasons = [reason for name, reason in self.dropped if name == label]
        return names + "".join(f"; {label} left out: {reason}" for reason in reasons)


def structures(count: int) -> str:
    """A number of structures in words."""
    return f"{count} structure{'s' * (count != 1)}"


def source_of(atoms: Atoms) -> str:
    """What to call a structure in a message."""
    return str(atoms.info.get("source", atoms.get_chemical_formula()))


def sources_in_words(sources: Sequence[str], *, most: int = 6) -> str:
    """Structures by file, ``a.xyz, frames 3, 7; b.xyz, frame 1``, the first ones of many."""
    frames: dict[str, list[str]] = {}
    for source in sources[:most]:
        name, _, frame = source.partition(", frame ")
        frames.setdefault(name, []).append(frame)
    texts = [
        f"{name}, frame{'s' * (len(found) > 1)} {', '.join(found)}" if all(found) else name
        for name, found in frames.items()
    ]
    more = len(sources) - most
    return "; ".join(texts) + f" and {more} more" * (more > 0)


def config_type_of(atoms: Atoms) -> str | None:
    """The group that a file puts a structure into."""
    value = atoms.info.get("config_type")
    return None if value is None else str(value)
