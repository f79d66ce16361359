"""Ctrl-C that arrives while modules are imported."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_AGAIN = 0.05  # s


@contextmanager
def interrupts_between_imports() -> Iterator[None]:
    """Let Ctrl-C interrupt between imports only; a second one interrupts anywhere.

    Raised inside an import a KeyboardInterrupt can get lost (Python drops it in the callbacks of
    its import locks, packages in bare excepts) and the command would go on; most of the first
    seconds of a command are imports. So the handler comes back until the import is over.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)}
    try:
        for number in before:
            signal.signal(number, _interrupt)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    waiting = signal.getitimer(signal.ITIMER_REAL)[0] > 0
    if waiting or not _is_importing(frame):
        raise KeyboardInterrupt
    signal.setitimer(signal.ITIMER_REAL, _AGAIN)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
