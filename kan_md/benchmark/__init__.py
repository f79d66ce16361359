"""LAMMPS benchmarks: files and subprocesses only, no torch."""
