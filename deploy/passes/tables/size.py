"""How large tables of pair functions may become: their number grows with the square of elements."""

from __future__ import annotations

from kan_md.errors import user_error

MOST_COLUMNS = 100_000
"""Functions times pairs of types; each takes a few kilobytes in the file, and ten times as much
while tables are made."""


MOST_IN_FILE = 16
"""Pairs of types, those of four, that a file has tables of. Beyond, a file makes tables of the
elements of a run when they are chosen (:mod:`kan_md.ops.chosen_types`)."""


def check_table_size(num_pairs: int, num_functions: int) -> None:
    """Refuse tables that would take hours and all memory.

    Args:
        num_pairs: pairs of types whose functions differ.
        num_functions: of one pair.

    Raises:
        KanMdError: there would be too many.
    """
    if num_pairs > 1 and num_pairs * num_functions > MOST_COLUMNS:
        raise user_error(
            "tables of radial functions that differ from pair to pair of elements",
            found=f"{num_functions} functions of {num_pairs:,} pairs",
            allowed=f"{MOST_COLUMNS:,} together",
            remedy="keep some of the elements with --elements, or leave tables out with --bound 0",
        )
