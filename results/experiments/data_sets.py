"""The public sets that models are compared on, and how they are divided: once, for every page.

The files are no part of the project; they lie in the folder that KAN_MD_DATA names.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kan_md.errors import user_error


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--data FOLDER``, which KAN_MD_DATA stands for."""
    folder = os.environ.get("KAN_MD_DATA")
    parser.add_argument("--data", type=Path, default=folder, help="folder; default KAN_MD_DATA")


def check_data(folder: Path | None, files: Iterable[str]) -> None:
    """Refuse a folder that has not all of the files.

    Raises:
        KanMdError: it has not, or there is none.
    """
    wanted = list(files)
    if folder is None or not all((folder / file).is_file() for file in wanted):
        raise user_error(
            "folder with the data",
            found=folder,
            allowed=f"one that holds {', '.join(wanted)}",
            remedy="set --data or KAN_MD_DATA",
        )


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A set and its division into blocks of consecutive frames.

    Attributes:
        name: in tables.
        train: file that is divided.
        frames: number of frames by part; what is left over is not used.
        test: file of the test set, where it has one of its own.
        max_force: eV/Å; frames beyond it are left out.
        about: what it is, for people.
    """

    name: str
    train: str
    frames: dict[str, int]
    about: str
    test: str | None = None
    max_force: float | None = None

    def section(self, folder: Path) -> dict:
        """Section ``data`` of a configuration.

        Raises:
            KanMdError: a file is missing.
        """
        files = {"train": self.train, "test": self.test}
        found = {part: file for part, file in files.items() if file}
        check_data(folder, found.values())
        found = {part: str(folder / file) for part, file in found.items()}
        limit = {} if self.max_force is None else {"max_force": self.max_force}
        return {**found, "split": {"method": "block", "blocks": 10, **self.frames}, **limit}


SETS = {
    one.name: one
    for one in (
        DataSet(
            name="Ag",
            train="Ag_pbe.xyz",
            frames={"train": 300, "val": 60, "test": 141},
            about="silver, 16 to 64 atoms, PBE",
        ),
        DataSet(
            name="HfO2",
            train="HfO2.xyz",
            frames={"train": 240, "val": 120, "test": 240},
            about="hafnia, 96 atoms, several phases",
        ),
        DataSet(
            name="Si",
            train="Si_mlearn.xyz",
            frames={"train": 150, "val": 40, "test": 49},
            about="silicon, 12 to 96 atoms, PBE",
        ),
        # Dimers and crushed cells with forces up to 147 eV/Å would decide the loss by themselves.
        DataSet(
            name="C",
            train="C_gap17_train.xyz",
            test="C_gap17_test.xyz",
            frames={"train": 300, "val": 60},
            max_force=40.0,
            about="carbon, 2 to 216 atoms, amorphous, crystals, surfaces; forces up to 40 eV/Å",
        ),
    )
}
