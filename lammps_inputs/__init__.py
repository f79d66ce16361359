"""Ready LAMMPS inputs, shipped as package data."""
