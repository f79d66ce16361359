"""The one exception that a user is meant to read."""

from __future__ import annotations


class KanMdError(Exception):
    """A mistake the user can mend, told on one line: what, found, allowed, remedy.

    The command line prints the message without a traceback and exits with status 2;
    library callers catch this class.
    """


def user_error(what: str, *, found: object, allowed: object, remedy: str) -> KanMdError:
    """Compose the one-line message of a :class:`KanMdError`.

    Args:
        what: the subject, e.g. ``"r_max must be > 0 Å"``.
        found: what was there instead.
        allowed: the permitted values, or ``None`` where ``what`` already says so.
        remedy: the next thing to do, e.g. ``"set model.r_max"``.

    Returns:
        The exception, to be raised by the caller.
    """
    allowed_text = "" if allowed is None else f"; allowed: {allowed}"
    return KanMdError(f"{what}, got {found}{allowed_text}; {remedy}")
