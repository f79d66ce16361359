"""What potentials of a metal are used for, calculated in LAMMPS: crystals, defects, melting."""
