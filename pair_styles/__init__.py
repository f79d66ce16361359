"""C++ sources of the LAMMPS plug-in, shipped as package data."""
