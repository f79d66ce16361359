"""Signals that end a command: Ctrl-C and what kill, a queue, a closed terminal send.

Each becomes an exception, so that what a command has begun is cleaned up on the way out: programs
that it started, temporary files, locks.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_AGAIN = 0.05  # s


class Ended(SystemExit):
    """One of :data:`ENDING` arrived; the exit status is 128 + its number, as shells have it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


@contextmanager
def interrupts_between_imports() -> Iterator[None]:
    """Let Ctrl-C and :data:`ENDING` interrupt between imports only; a second one anywhere.

    Raised inside an import an exception can get lost (Python drops it in the callbacks of its
    import locks, packages in bare excepts) and the command would go on; most of the first seconds
    of a command are imports. So the handler comes back until the import is over. A signal that is
    ignored from the start (nohup) stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = (signal.SIGINT, *ENDING)
    before = {number: signal.getsignal(number) for number in (*wanted, signal.SIGALRM)}
    handler = _Handler()
    try:
        for number, old in before.items():
            if old is not signal.SIG_IGN or number == signal.SIGALRM:
                signal.signal(number, handler)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, old in before.items():
            signal.signal(number, old)


class _Handler:
    """Raises what a signal means, at the latest when it comes again."""

    def __init__(self) -> None:
        self._waiting: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        came_back = number == signal.SIGALRM
        again = self._waiting is not None and not came_back
        if came_back:
            number = self._waiting or signal.SIGINT
        if not again and _is_importing(frame):
            self._waiting = number
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
            return
        self._waiting = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt if number == signal.SIGINT else Ended(number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
