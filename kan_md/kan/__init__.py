"""Kolmogorov-Arnold networks for potentials: smooth, zero-preserving, free of global state."""

from kan_md.kan.bases import BASES
from kan_md.kan.grids import GridFit, fit_grids, fit_layer
from kan_md.kan.layer import KANLayer
from kan_md.kan.network import KAN
from kan_md.kan.regularize import regularization

__all__ = [
    "BASES",
    "KAN",
    "GridFit",
    "KANLayer",
    "fit_grids",
    "fit_layer",
    "regularization",
]
