"""``python end_with_parent.py PARENT PROGRAM ARGS...``: become a program that ends with its parent.

Run as a file, by :mod:`kan_md.children`; prctl(2), PR_SET_PDEATHSIG. It stands in a process of its
own because code between fork and exec may not take locks, which Python does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Tie this process to its parent and become the program.

    Args:
        parent: process id; where it is gone already nothing is started.
        command: program and arguments.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)
    # Python ignores these two for itself; a program expects them as they are by default.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
