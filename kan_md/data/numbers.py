"""Numbers as people write them into data files."""

from __future__ import annotations

import re

import numpy as np

_NOTHING = {"", "none", "nan", "null", "na", "n/a", "-", "--", "missing"}
_BRACKETS = str.maketrans("[](){},;", "        ")
_FORTRAN = re.compile(r"(?<=[\d.])[dD](?=[+-]?\d)")


def as_numbers(value: object) -> np.ndarray:
    """Turn a label into a flat array: numbers, nested lists, text, Fortran's 1.0D+01.

    What says that there is nothing (None, "null", "n/a", an empty list) becomes NaN.

    Args:
        value: a number, an array, a list of lists or a text of numbers.

    Returns:
        [num_values] float64, at least one.

    Raises:
        ValueError: it is something else.
    """
    if value is None:
        return np.array([np.nan])
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        words = value.translate(_BRACKETS).split() or [""]
        return np.array([_number(word) for word in words])
    array = np.asarray(value)
    if array.size == 0:
        return np.array([np.nan])
    if array.dtype.kind in "SUO" and isinstance(value, (list, tuple, np.ndarray)):
        return np.concatenate([as_numbers(item) for item in array.ravel().tolist()])
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{value!r} is no number")
    return array.astype(np.float64).ravel()


def fortran_to_c(text: str) -> str:
    """Write 1.0D+01 as 1.0e+01."""
    return _FORTRAN.sub("e", text)


def _number(word: str) -> float:
    return np.nan if word.lower() in _NOTHING else float(fortran_to_c(word))
