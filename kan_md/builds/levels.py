"""Levels of processors that operators are compiled for; imports no torch.

A level is a name of the x86-64 psABI, and so one of ``-march=``. A processor takes the best one of
a build that it has (kan_md/ops/choose_kernels.cpp).
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path

from kan_md.errors import user_error

LEVELS_VARIABLE = "KAN_MD_LEVELS"
"""Environment variable with the levels to compile for, as :func:`parse_levels` reads them."""
NATIVE, ALL = "native", "all"
"""The level of this processor, and every one of its architecture."""
X86_64 = ("x86-64-v4", "x86-64-v3", "x86-64-v2")
"""The best first; those of before v2 are not served."""

# What a level has beyond the one below it, as Linux names it (x86-64 psABI, table 3.1).
_FLAGS = {
    "x86-64-v2": "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3",
    "x86-64-v3": "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
    "x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
}
_FLAGS_OF_PROCESSOR = Path("/proc/cpuinfo")


def all_levels() -> tuple[str, ...]:
    """Levels of this machine's architecture, the best first."""
    return X86_64 if platform.machine() in ("x86_64", "AMD64") else (platform.machine(),)


def native_levels() -> tuple[str, ...]:
    """The best level of this processor; all of them where the system does not say what it has."""
    if all_levels() != X86_64:
        return all_levels()
    try:
        flags = re.search(r"^flags\s*:(.*)", _FLAGS_OF_PROCESSOR.read_text(), re.MULTILINE)
    except OSError:
        flags = None
    if flags is None:
        return X86_64
    has, best = set(flags[1].split()), None
    for level, needed in _FLAGS.items():
        if not has.issuperset(needed.split()):
            break
        best = level
    return (best,) if best else X86_64


def parse_levels(text: str) -> tuple[str, ...]:
    """Levels that a user names, the best first.

    Args:
        text: names, ``native`` and ``all`` among them, with spaces or commas between.

    Raises:
        KanMdError: one is none of this architecture.
    """
    names = text.replace(",", " ").split()
    several = {NATIVE: native_levels(), ALL: all_levels()}
    unknown = [name for name in names if name not in several and name not in all_levels()]
    if unknown or not names:
        raise user_error(
            "levels of processors must be those of this architecture",
            found=" ".join(unknown) or "none",
            allowed=f"{NATIVE}, {ALL}, {', '.join(all_levels())}",
            remedy=f"give kan-md build --levels, or {LEVELS_VARIABLE}, one or several of them",
        )
    return in_order(level for name in names for level in several.get(name, (name,)))


def in_order(levels: Iterable[str]) -> tuple[str, ...]:
    """Levels once each, the best first."""
    wanted = set(levels)
    return tuple(level for level in all_levels() if level in wanted)


def asked_levels(option: str | None = None) -> tuple[str, ...]:
    """Levels by an option, else by the variable; none where nobody asked.

    Raises:
        KanMdError: as :func:`parse_levels`.
    """
    text = option or os.environ.get(LEVELS_VARIABLE)
    return parse_levels(text) if text else ()
