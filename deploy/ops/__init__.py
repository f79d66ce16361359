"""Fused C++ operators and their plain torch twins."""

from kan_md_deploy.ops.library import is_built, load, operators_in_layers

__all__ = ["is_built", "load", "operators_in_layers"]
