"""Structures with labels: reading, checking, splitting, statistics, demo sets."""

from kan_md.data.reading import read_frames

__all__ = ["read_frames"]
