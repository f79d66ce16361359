"""What the operator library of a build says of its kernels; imports no torch."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

from kan_md.errors import KanMdError

OPERATORS_NAME = "libkan_md_ops.so"
"""Operators for deployed files and for training; their kernels are in libraries beside it."""
CPU_VARIABLE = "KAN_MD_CPU"
"""Environment variable with the level of processors whose kernels are to be taken."""

_PREFIX = "libkan_md_kernels-"


def kernels_failure(library: Path) -> str | None:
    """Load an operator library and ask why it has no kernels for this processor.

    Args:
        library: path of libkan_md_ops.so.

    Returns:
        One line with a remedy, or None where there are kernels.

    Raises:
        OSError: the library does not load.
    """
    said = _call(library, "kan_md_kernels_failure")
    return said or None


def kernels_level(library: Path) -> str:
    """Level of processors of the kernels in use, e.g. ``x86-64-v3``; arguments as above."""
    return _call(library, "kan_md_kernels_level") or ""


def built_levels(folder: Path) -> list[str]:
    """Levels of processors that a build has kernels for."""
    return sorted(path.stem.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*.so"))


def kernels_name(level: str) -> str:
    """Name of the library with the kernels of a level."""
    return f"{_PREFIX}{level}.so"


def try_kernels(folder: Path) -> str:
    """Load the operators of a build in a process of its own, which shows that they do load.

    Returns:
        The level of those that fit this processor.

    Raises:
        KanMdError: they do not load, or none fits.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(folder / OPERATORS_NAME)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        raise KanMdError(f"operators of the build in {folder} do not work, got {last}")
    return done.stdout.strip()


def _call(library: Path, name: str) -> str | None:
    function = getattr(ctypes.CDLL(str(library)), name)
    function.restype = ctypes.c_char_p
    answer = function()
    return answer.decode() if answer is not None else None


def main(library: Path) -> None:
    """Print the level of the kernels in use; end with a line where there are none."""
    try:
        failure = kernels_failure(library)
    except OSError as error:
        failure = str(error)
    if failure:
        sys.exit(failure)
    sys.stdout.write(kernels_level(library) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
