"""This project's own commands in processes of their own, whose end is not the caller's."""

from __future__ import annotations

import subprocess
import sys

from kan_md import children
from kan_md.benchmark.log import last_line
from kan_md.errors import KanMdError


def run_kan_md(*words: object, what: str) -> None:
    """Run ``kan-md WORDS ...`` and wait for it; what it prints is not shown.

    Args:
        words: of the command line.
        what: is done, for the message.

    Raises:
        KanMdError: it failed; the message is its own.
    """
    done = children.run(
        [sys.executable, "-m", "kan_md", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    if done.returncode:
        raise KanMdError(f"{what}: {why_it_ended(done.stderr, done.returncode)}")


def why_it_ended(said: str, status: int) -> str:
    """What a command gave as the reason of its end.

    Args:
        said: all of its stderr.
        status: of the process, other than 0.
    """
    return last_line(said).removeprefix("kan-md: error: ") or children.how_it_ended(status)
