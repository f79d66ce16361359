"""Optimisation passes over a frozen model, one per file."""
