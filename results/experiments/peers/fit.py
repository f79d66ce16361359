"""What a fit of a peer is: its settings, the files that LAMMPS reads, and its record."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ase import Atoms

from kan_md.benchmark.models import Entry
from kan_md.files import write_text

CUTOFF = 5.0
"""Å, of every peer, as of kan-md's own models on these sets."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a method made.

    Attributes:
        parameters: number of fitted coefficients.
        pair_style: arguments of LAMMPS' ``pair_style``.
        pair_coeff: names of the files, in the order of ``pair_coeff``.
        files: their content by name.
    """

    parameters: int
    pair_style: str
    pair_coeff: tuple[str, ...]
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A potential of a given size, and the settings among which validation chooses.

    Attributes:
        method: name of the method.
        size: what distinguishes it from others of the method.
        weights: of an energy per atom against a force component, each of them tried.
        fit: from elements, training frames, weight and a folder to work in.
    """

    method: str
    size: str
    weights: tuple[float, ...]
    fit: Callable[[Sequence[str], Sequence[Atoms], float, Path], Fitted]

    @property
    def label(self) -> str:
        """Name in tables."""
        return f"{self.method}, {self.size}"


@dataclass(frozen=True, kw_only=True)
class PeerRecord:
    """A fit that was done; its files are in it, so that it can be run again.

    Attributes:
        method: name of the method.
        label: in tables.
        set: name of the set.
        elements: of the set.
        weight: that validation chose.
        tried: errors on the validation part by weight.
        seconds: of the chosen fit.
        test: errors on the test part.
        fitted: see :class:`Fitted`.
        versions: of the programs.
    """

    method: str
    label: str
    set: str
    elements: tuple[str, ...]
    weight: float
    tried: dict[str, dict[str, float]]
    seconds: float
    test: dict[str, float]
    fitted: Fitted
    versions: dict[str, str]

    def write(self, path: Path) -> None:
        """Write it whole as JSON."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        write_text(path, text + "\n", make_folder=True)

    @classmethod
    def read(cls, path: Path) -> PeerRecord:
        """Read what :meth:`write` wrote."""
        content = json.loads(path.read_text())
        fitted = content["fitted"]
        content["fitted"] = Fitted(**{**fitted, "pair_coeff": tuple(fitted["pair_coeff"])})
        return cls(**{**content, "elements": tuple(content["elements"])})


def entry_of(label: str, elements: Sequence[str], fitted: Fitted, folder: Path) -> Entry:
    """Write the files into a folder and say how LAMMPS is told of them."""
    for name, text in fitted.files.items():
        write_text(folder / name, text, make_folder=True)
    return Entry(
        label=label,
        type_names=tuple(elements),
        pair_style=fitted.pair_style,
        pair_coeff=" ".join(str((folder / name).resolve()) for name in fitted.pair_coeff),
        r_max=CUTOFF,
        dtype="float64",
    )
