"""Programs that we start end with us, however we end.

An ordinary end, an error, Ctrl-C, or one of :data:`kan_md.interrupt.ENDING` passes through
:func:`child`, which ends the program. Where we are killed (SIGKILL, out of memory) the kernel does
it: :data:`END_WITH_PARENT` asks it to, in the child, before it becomes the program.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

END_WITH_PARENT = Path(__file__).with_name("end_with_parent.py")
GRACE = 10.0
"""Seconds in which a program that was asked to end may write what it has."""


@contextmanager
def child(command: Sequence[object], **options: Any) -> Iterator[subprocess.Popen]:
    """Run a program while the block runs, and wait for its end behind it.

    Args:
        command: program and arguments.
        **options: of :class:`subprocess.Popen`. With ``start_new_session`` the program's own
            children are ended with it.

    Yields:
        The running program. Where the block is left by an exception the program is ended.
    """
    process = start(command, **options)
    session = bool(options.get("start_new_session"))
    try:
        yield process
        process.wait()
    except BaseException as error:
        # After Ctrl-C a program of our group has had it too, and may be writing its checkpoint.
        told = isinstance(error, KeyboardInterrupt) and not session
        end(process, patience=GRACE if told else 0.0, group=session)
        raise
    finally:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()


def start(command: Sequence[object], **options: Any) -> subprocess.Popen:
    """Start a program that the kernel ends (SIGTERM) when this process is gone."""
    words = list(map(str, command))
    if sys.platform == "linux":
        words = [sys.executable, "-I", "-S", str(END_WITH_PARENT), str(os.getpid()), *words]
    return subprocess.Popen(words, **options)


def run(
    command: Sequence[object], *, timeout: float | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Like :func:`subprocess.run` for text, with the program ended as :func:`child` ends it.

    Args:
        command: program and arguments.
        timeout: seconds after which it is ended and ``subprocess.TimeoutExpired`` raised.
        **options: of :class:`subprocess.Popen`.
    """
    with child(command, text=True, errors="replace", **options) as process:
        output, error = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(list(command), process.returncode, output, error)


def end(process: subprocess.Popen, *, patience: float = 0.0, group: bool = False) -> None:
    """End a program: wait if it knows already, then ask, after :data:`GRACE` seconds kill.

    Args:
        process: running or not.
        patience: seconds to wait before anything is sent.
        group: it leads a session; all of that is ended.
    """
    for number, seconds in ((None, patience), (signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        if process.poll() is not None:
            return
        if number and group:
            os.killpg(process.pid, number)
        elif number:
            process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


def how_it_ended(status: int) -> str:
    """What a status says of a process that has said nothing."""
    if status >= 0:
        return f"ended with status {status}"
    by = signal.Signals(-status).name
    return f"ended by {by}" + ", as where memory runs out" * (by == "SIGKILL")
