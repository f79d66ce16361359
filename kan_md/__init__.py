"""Interatomic potentials whose output block is a Kolmogorov-Arnold network."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kan_md.calculator import KANCalculator, TensorCalculator

__version__ = metadata.version("kan-md")
__all__ = ["KANCalculator", "TensorCalculator", "__version__"]


def __getattr__(name: str) -> object:
    """Import the ASE calculators on first use, so that ``import kan_md`` does not load torch."""
    if name in ("KANCalculator", "TensorCalculator"):
        from kan_md import calculator

        return getattr(calculator, name)
    raise AttributeError(f"module 'kan_md' has no attribute {name!r}")
