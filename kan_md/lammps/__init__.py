"""The LAMMPS side as seen from Python: building the plug-in, running ``lmp``."""
