"""Potentials that people would take instead, fitted to the frames that kan-md's models learn from.

A method writes what LAMMPS needs of a fit into a folder; every error is then measured in LAMMPS, by
one and the same program, whatever the method's own tools say.
"""
