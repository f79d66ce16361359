"""Optimisation passes: one file each, every one keeps the function that the model computes."""
