"""What a compiler says when it cannot compile a model."""

from __future__ import annotations

import re

from kan_md.errors import KanMdError, user_error

_PLACE = re.compile(r'File "(?:.*site-packages/)?([^"]+)", line (\d+)')
_LONGEST = 200


class NotCompiledError(KanMdError):
    """A backend cannot compile a model, though another one may.

    Attributes:
        reason: the compiler's own, in short.
    """

    def __init__(self, message: str, *, reason: str):
        super().__init__(message)
        self.reason = reason


def not_compiled(compiler: str, error: BaseException, *, remedy: str) -> NotCompiledError:
    """Say that a compiler gave up, in one line of its many.

    Args:
        compiler: its name.
        error: what it raised.
        remedy: what to do.
    """
    reason = _first_line(str(error)) or type(error).__name__
    place = _PLACE.search(str(error))
    if place is not None:
        reason += f" ({place[1]}, line {place[2]})"
    text = user_error(
        f"{compiler} cannot compile this model", found=reason, allowed=None, remedy=remedy
    )
    return NotCompiledError(str(text), reason=reason)


def _first_line(text: str) -> str:
    lines = (" ".join(line.split()).rstrip(":") for line in text.splitlines())
    return next((line for line in lines if line), "")[:_LONGEST]
