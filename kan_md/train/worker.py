"""``python -m kan_md.train.worker``: another process of a run, started by its first one.

Its task comes through stdin. It says nothing but why it failed, in the last line on stderr.
"""

from __future__ import annotations

import pickle
import sys

from kan_md.allocator import tune_allocator
from kan_md.waiting import let_threads_of_torch_wait


def main() -> None:
    """Do the task."""
    tune_allocator()
    let_threads_of_torch_wait()
    from kan_md.errors import KanMdError
    from kan_md.train.interrupt import TrainingInterrupted
    from kan_md.train.processes import INTERRUPTED
    from kan_md.train.run import train_part

    task = pickle.load(sys.stdin.buffer)
    try:
        train_part(**task)
    except TrainingInterrupted:
        sys.exit(INTERRUPTED)
    except KanMdError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
