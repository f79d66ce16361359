"""Durations as people write them."""

from __future__ import annotations

import re

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: object) -> object:
    """Turn ``90s``, ``10m``, ``1h30m`` into seconds; numbers are seconds already.

    Raises:
        ValueError: a string of another form.
    """
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"(\d+(\.\d+)?[smhd])+", value):
        raise ValueError("a duration is written like 90s, 10m, 1h30m or 2d")
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", value)
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)
