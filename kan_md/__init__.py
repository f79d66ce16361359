"""Interatomic potentials whose output block is a Kolmogorov-Arnold network."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kan_md.calculator import KANCalculator

__version__ = metadata.version("kan-md")
__all__ = ["KANCalculator", "__version__"]


def __getattr__(name: str) -> object:
    """Import the ASE calculator on first use, so that ``import kan_md`` does not load torch."""
    if name == "KANCalculator":
        from kan_md.calculator import KANCalculator

        return KANCalculator
    raise AttributeError(f"module 'kan_md' has no attribute {name!r}")
