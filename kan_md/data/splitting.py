"""Dividing frames into training, validation and test sets."""

from __future__ import annotations

from typing import Literal

import numpy as np

from kan_md.errors import user_error

PARTS = ("train", "val", "test")


def split_indices(
    number: int,
    sizes: dict[str, float],
    *,
    method: Literal["random", "block"] = "random",
    seed: int = 0,
    blocks: int = 10,
) -> dict[str, np.ndarray]:
    """Divide ``number`` frames; no frame is in two parts.

    Args:
        number: of frames.
        sizes: by part (``train``, ``val``, ``test``), a share of the frames (<= 1) or a number
            of them (> 1). A part that is asked for gets at least one frame.
        method: ``random``, or ``block``: cut the sequence into ``blocks`` and divide each of them
            in the order train, val, test.
        seed: of the random order.
        blocks: number of blocks, at most as many as leave a frame of every part in each.

    Returns:
        Sorted indices by part.

    Raises:
        KanMdError: more frames are asked for than there are.
    """
    counts = {part: _count(number, size) for part, size in sizes.items()}
    if sum(counts.values()) > number:
        raise user_error(
            "the split asks for more structures than there are",
            found=", ".join(f"{part} {count}" for part, count in counts.items()),
            allowed=f"{number} in all",
            remedy="change data.split",
        )
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
    if size == 0:
        return 0
    return max(1, int(number * size + 1e-9)) if size <= 1 else int(size)


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
