"""Files that are made once, by whichever process of pytest needs them first."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest


class SharedFiles:
    """Files by what they are made of.

    Args:
        folder: the same for every worker of pytest-xdist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def of_run(cls, factory: pytest.TempPathFactory, name: str) -> "SharedFiles":
        """A folder of the run: each worker has its own base folder inside of one of all."""
        base = factory.getbasetemp()
        shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
        return cls(shared / name)

    def get(self, made_of: object, suffix: str, make: Callable[[Path], object]) -> Path:
        """The file of this content; ``make(path)`` writes it where there is none yet.

        Args:
            made_of: what JSON can hold, tuples as lists. Equal values share a file.
            suffix: of the file's name.
            make: leaves no file where it fails.
        """
        key = json.dumps(made_of, sort_keys=True, default=list)
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        path = self._folder / f"{name}{suffix}"
        if not path.is_file():
            with (self._folder / f"{name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.is_file():
                    new = self._folder / f"{name}.new{suffix}"
                    make(new)
                    new.rename(path)  # whole, or not there
        return path
