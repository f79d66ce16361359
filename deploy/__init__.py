"""The deploy step: turns a trained ``model.pth`` into a file that LAMMPS runs."""
