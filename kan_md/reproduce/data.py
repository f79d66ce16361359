"""Which data a table is made with: the user's, public ones by their usual names, or self-made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from kan_md.errors import user_error
from kan_md.runs.own_command import run_kan_md

SPLIT = {"method": "block", "blocks": 10, "train": 0.8, "val": 0.1, "test": 0.1}
"""Blocks of consecutive frames: the paper divides trajectories at random, whose neighbours are
nearly the same structures."""
SPLIT_WITHOUT_TEST = {"method": "block", "blocks": 10, "train": 0.9, "val": 0.1}
MAX_FORCE = 40.0
"""eV/Å; the carbon set has dimers with several times that, which would decide the loss alone."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Files that a system may come as.

    Attributes:
        train: file name.
        test: likewise, where the test set has a file of its own.
        about: for the report.
        section: further keys of section ``data``.
    """

    train: str
    test: str | None = None
    about: str
    section: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Data of a table.

    Attributes:
        section: ``data`` of the configuration.
        about: what they are, for the report.
    """

    section: dict[str, Any]
    about: str


_SILVER = "silver with a vacancy made here (an embedded-atom potential by LAMMPS, 71 atoms)"
_CARBON = {"max_force": MAX_FORCE}
SYSTEMS: dict[str, tuple[Candidate, ...]] = {
    "silver": (
        Candidate(train="Ag.xyz", about="the user's Ag.xyz"),
        Candidate(
            train="Ag_pbe.xyz", about="Ag_pbe.xyz, a public set of 16 to 64 atoms, not the paper's"
        ),
    ),
    "hafnia": (Candidate(train="HfO2.xyz", about="HfO2.xyz"),),
    "carbon": (
        Candidate(
            train="C_train.xyz",
            test="C_test.xyz",
            about="C_train.xyz and C_test.xyz",
            section=_CARBON,
        ),
        Candidate(
            train="C_gap17_train.xyz",
            test="C_gap17_test.xyz",
            about="a part of C-GAP-17, no fair sample of it: compare rows, not numbers",
            section=_CARBON,
        ),
    ),
    "quartz": (
        Candidate(train="SiO2.xyz", about="the user's SiO2.xyz"),
        Candidate(
            train="SiO2_bec.xyz",
            about="SiO2_bec.xyz, a public set of 160 structures, not the paper's",
        ),
    ),
}
SELF_MADE: dict[str, tuple[str, str]] = {
    "silver": ("ag-vacancy", _SILVER),
    "hafnia": ("ag-vacancy", f"{_SILVER}, for want of hafnia"),
    "carbon": ("ag-vacancy", f"{_SILVER}, for want of carbon"),
    "quartz": (
        "charge-transfer",
        "a model crystal with known Born charges made here, for want of quartz",
    ),
}


def find_data(system: str, given: Path | None, own: Path, console: Console) -> Source:
    """The data of a system: what the user's folder holds of it, or what is made here.

    Args:
        system: key of :data:`SYSTEMS`.
        given: the user's folder; None for self-made sets.
        own: folder of these.
        console: told where some are made.

    Raises:
        KanMdError: the folder is none, or data could not be made.
    """
    if given is not None and not given.is_dir():
        raise user_error(
            "folder with the data",
            found=given,
            allowed="one with " + ", ".join(c.train for s in SYSTEMS.values() for c in s),
            remedy="change --data, or leave it out for self-made sets",
        )
    for candidate in SYSTEMS[system] if given is not None else ():
        names = {"train": candidate.train, "test": candidate.test}
        paths = {part: (given / name).absolute() for part, name in names.items() if name}
        if all(path.is_file() for path in paths.values()):
            parts = {part: str(path) for part, path in paths.items()}
            split = SPLIT if candidate.test is None else SPLIT_WITHOUT_TEST
            return Source({**parts, "split": split, **candidate.section}, candidate.about)
    command, about = SELF_MADE[system]
    path = own / f"{command}.xyz"
    if not path.exists():
        console.print(f"making {path}")
        own.mkdir(parents=True, exist_ok=True)
        _make(command, path)
    return Source({"train": str(path.absolute()), "split": SPLIT}, about)


def _make(command: str, path: Path) -> None:
    run_kan_md("data", command, path, what=f"making {path}")
