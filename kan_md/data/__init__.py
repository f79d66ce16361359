"""Structures with labels: reading, splitting, statistics, demo sets."""
