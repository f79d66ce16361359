"""Functions of one variable as piecewise polynomials, fitted to KAN layers."""
