"""Fused C++ operators: sources, loading, how they want their constants."""

from kan_md.ops.library import is_built, load, operators_in_layers, require

__all__ = ["is_built", "load", "operators_in_layers", "require"]
