"""Runs a command and says in one line of JSON, the last on stderr, what it took.

``python spent.py COMMAND ...`` imports nothing large: a child's largest resident set is never less
than that of the process that started it.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main(command: list[str]) -> int:
    """Run a command; returns its exit status."""
    start = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, used = os.wait4(child, 0)
    spent = {
        "cpu_s": used.ru_utime + used.ru_stime,
        "wall_s": time.perf_counter() - start,
        "peak_gb": used.ru_maxrss * 1024 / 1e9,
    }
    sys.stderr.write("\n" + json.dumps(spent) + "\n")
    return os.waitstatus_to_exitcode(status) % 256


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
