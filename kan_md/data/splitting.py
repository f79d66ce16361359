"""Dividing frames into training, validation and test sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from kan_md.errors import user_error

PARTS = ("train", "val", "test")

DEFAULT_SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}

Sizes = Mapping[str, int | float | None]
"""By part: a share of the frames (float), a number of them (int), or what is left (None)."""


def split_counts(number: int, sizes: Sizes) -> dict[str, int]:
    """Number of frames of each part.

    Where all that is given are shares, the others divide what is left in the ratio of
    :data:`DEFAULT_SHARES`, rounded by the largest remainders: nothing is lost where all shares make
    1. Beside numbers of frames, what is not given gets its default share as far as that is left. A
    part that is asked for by name has at least one frame.

    Args:
        number: of frames.
        sizes: what is wanted.

    Raises:
        KanMdError: more frames are asked for than there are.
    """
    missing = [part for part, size in sizes.items() if size is None]
    if any(isinstance(size, int) for size in sizes.values()):
        counts = {part: _count(number, size) for part, size in sizes.items() if size is not None}
        for part in sorted(missing, key="train".__eq__):  # training last: it takes all that is left
            left = number - sum(counts.values())
            wanted = int(number * DEFAULT_SHARES[part] + 1e-9)
            counts[part] = left if part == "train" else min(max(part == "val", wanted), left)
        counts = {part: counts[part] for part in sizes}
    else:
        left = max(0.0, 1.0 - sum(size for size in sizes.values() if size is not None))
        ratio = sum(DEFAULT_SHARES[part] for part in missing)
        shares = {
            part: left * DEFAULT_SHARES[part] / ratio if size is None else size
            for part, size in sizes.items()
        }
        counts = _rounded(number, shares)
    if sum(counts.values()) > number:
        raise user_error(
            "the split asks for more structures than there are",
            found=", ".join(f"{part} {count}" for part, count in counts.items()),
            allowed=f"{number} in all",
            remedy="change data.split",
        )
    return counts


def _rounded(number: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers near the shares, whose sum is that of the shares, rounded down."""
    exact = {part: number * share for part, share in shares.items()}
    counts = {part: int(value + 1e-9) for part, value in exact.items()}
    over = int(sum(exact.values()) + 1e-6) - sum(counts.values())
    for part in sorted(exact, key=lambda part: counts[part] - exact[part])[:over]:
        counts[part] += 1
    for part in counts:
        if counts[part] == 0 and shares[part] > 1e-9:
            largest = max(counts, key=counts.__getitem__)
            counts[largest] -= counts[largest] > 1
            counts[part] = 1
    return counts


def split_indices(
    number: int,
    sizes: Sizes,
    *,
    method: Literal["random", "block"] = "random",
    seed: int = 0,
    blocks: int = 10,
) -> dict[str, np.ndarray]:
    """Divide ``number`` frames; no frame is in two parts.

    Args:
        number: of frames.
        sizes: see :func:`split_counts`.
        method: ``random``, or ``block``: cut the sequence into ``blocks`` and divide each of them
            in the order train, val, test.
        seed: of the random order.
        blocks: number of blocks, at most as many as leave a frame of every part in each.

    Returns:
        Sorted indices by part.

    Raises:
        KanMdError: more frames are asked for than there are.
    """
    counts = split_counts(number, sizes)
    if method == "random":
        order = np.random.default_rng(seed).permutation(number)
        return _cut(order, counts)
    smallest = min((count for count in counts.values() if count), default=1)
    number_of_blocks = max(1, min(blocks, smallest))
    # What no part asked for is a part of its own, so that the blocks cover the whole sequence.
    shares = _spread({**counts, "": number - sum(counts.values())}, number_of_blocks)
    ends = np.cumsum([sum(share.values()) for share in shares])
    pieces = np.split(np.arange(number), ends[:-1])
    parts = [_cut(piece, share) for piece, share in zip(pieces, shares, strict=True)]
    return {part: np.concatenate([piece[part] for piece in parts]) for part in counts}


def _count(number: int, size: float) -> int:
    if isinstance(size, int) or size == 0:
        return int(size)
    return max(1, int(number * size + 1e-9))


def _cut(order: np.ndarray, counts: dict[str, int]) -> dict[str, np.ndarray]:
    ends = np.cumsum(list(counts.values()))
    starts = ends - list(counts.values())
    return {
        part: np.sort(order[start:end])
        for part, start, end in zip(counts, starts, ends, strict=True)
    }


def _spread(counts: dict[str, int], pieces: int) -> list[dict[str, int]]:
    """Share the counts out over the pieces as evenly as they go."""
    return [
        {
            part: count * (index + 1) // pieces - count * index // pieces
            for part, count in counts.items()
        }
        for index in range(pieces)
    ]
