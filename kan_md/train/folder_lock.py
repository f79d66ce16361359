"""One process at a time writes a run: the others are told so before they touch anything."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from kan_md.errors import user_error
from kan_md.files import cannot_write
from kan_md.train.checkpoints import BEST, FOLDER, LAST


class Claim:
    """Holds the checkpoints' folder of a run for this process, from :meth:`take` to the end.

    The lock is the system's, on the folder itself: it leaves no file, and ends with the process
    however that ends. File systems without such locks are trusted.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handle: int | None = None

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def take(self, *, make: bool = False) -> None:
        """Take the folder, and clear what a killed process left half written.

        Args:
            make: the folder where it is missing; without, nothing happens then.

        Raises:
            KanMdError: another process trains there, or the folder cannot be made.
        """
        place = self.folder / FOLDER
        if self._handle is not None:
            return
        if make:
            try:
                place.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise cannot_write(self.folder, error) from error
        elif not place.is_dir():
            return
        handle = os.open(place, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise user_error(
                f"output folder {self.folder}",
                found="a training that is running there",
                allowed=None,
                remedy="wait for its end, or choose another --output",
            ) from error
        except OSError:  # no locks here
            os.close(handle)
            return
        self._handle = handle
        for name in (LAST, BEST):
            stem, ending = name.split(".")
            for rest in place.glob(f".{stem}.*.{ending}"):
                with suppress(OSError):
                    rest.unlink()
