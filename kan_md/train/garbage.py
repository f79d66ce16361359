"""Python's garbage collector while a training goes on."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_what_is_there() -> Iterator[None]:
    """Let the collector look at objects made from now on alone.

    It walks through all objects otherwise, those of torch and of the data among them, every few
    epochs of a small model, which takes as long as a few steps.
    """
    mine = gc.get_freeze_count() == 0
    gc.freeze()
    try:
        yield
    finally:
        if mine:
            gc.unfreeze()
