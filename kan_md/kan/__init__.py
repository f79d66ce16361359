"""Kolmogorov-Arnold networks for potentials: smooth, zero-preserving, free of global state."""

from kan_md.kan.bases import BASES
from kan_md.kan.layer import KANLayer
from kan_md.kan.network import KAN

__all__ = ["BASES", "KAN", "KANLayer"]
