"""Small structures of copper and gold, each a case that has broken some pair style before."""

import numpy as np
from ase import Atoms
from ase.build import bulk

ELEMENTS = ("Cu", "Au")
R_MAX = 4.0


def rattled(repeat, *, cell_change=None, seed=0):
    """fcc CuAu, atoms moved by about 0.1 Å; 3.85 Å per cell, so that 2 cells < 2 r_max."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", "fcc", a=3.85, cubic=True).repeat(repeat)
    atoms.symbols[rng.permutation(len(atoms))[: len(atoms) // 2]] = "Au"
    if cell_change is not None:
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + cell_change), scale_atoms=True)
    atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
    atoms.wrap()
    return atoms


def structures():
    """Name -> structure."""
    slab = rattled((2, 2, 1), seed=3)
    slab.center(vacuum=6.0, axis=2)
    slab.pbc = (True, True, False)
    cluster = Atoms(
        "Cu2Au2",
        positions=np.array([[1.0, 1.0, 1.0], [3.3, 1.2, 1.1], [1.2, 3.4, 1.3], [1.4, 1.3, 3.5]]),
        cell=[40.0, 40.0, 40.0],
        pbc=False,
    )
    return {
        "orthogonal": rattled((2, 2, 2)),
        "triclinic": rattled(
            (2, 2, 2), cell_change=np.array([[0.02, 0, 0], [0.2, -0.03, 0], [-0.15, 0.1, 0.04]])
        ),
        "own images": rattled((1, 1, 1), seed=2),
        "slab": slab,
        "cluster in a corner": cluster,
        "single atom": Atoms("Au", positions=[[10.0, 10.0, 10.0]], cell=[20.0] * 3, pbc=False),
        "dimer": dimer(2.2),
        "stretched dimer": dimer(R_MAX - 1e-3),
        "broken dimer": dimer(R_MAX + 1e-3),
    }


def dimer(distance):
    positions = [[10.0, 10.0, 10.0], [10.0 + distance, 10.0, 10.0]]
    return Atoms("CuAu", positions=positions, cell=[30.0, 20.0, 20.0], pbc=False)
