"""Kolmogorov-Arnold network layers: bases, layers, networks, grids."""
