"""Kept neighbour lists against new ones, along everything that a structure may do."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from kan_md.errors import KanMdError
from kan_md.model.graph import edge_graph
from kan_md.model.kept_edges import SKIN, KeptEdges

R_MAX = 3.9
NAMES = ("Cu", "Au")


@pytest.fixture
def crystal() -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.7, cubic=True) * (2, 2, 1)
    atoms.symbols[::3] = "Au"
    atoms.positions += np.random.default_rng(0).normal(0.0, 0.1, atoms.positions.shape)
    return atoms


def rows(graph) -> np.ndarray:
    """Centre, neighbour and vector of each edge, in one order for all lists."""
    vectors, index, _ = graph
    table = np.column_stack([index.numpy().T, vectors.numpy()])
    return table[np.lexsort(np.round(table[:, ::-1], 6).T)]


def agree(kept: KeptEdges, atoms: Atoms) -> None:
    found, expected = kept(atoms), edge_graph(atoms, R_MAX, NAMES)
    assert (np.diff(found.edge_index[0].numpy()) >= 0).all()
    assert found.edge_index.shape == expected.edge_index.shape
    np.testing.assert_allclose(rows(found), rows(expected), atol=1e-12)
    np.testing.assert_array_equal(found.atom_types, expected.atom_types)


@pytest.mark.parametrize("pbc", [True, False, (True, False, True)])
def test_list_along_a_trajectory_is_that_of_each_structure(crystal, pbc):
    crystal.pbc = pbc
    kept, rng = KeptEdges(R_MAX, NAMES), np.random.default_rng(1)
    velocities = rng.normal(0.0, 0.015, crystal.positions.shape)
    for _ in range(30):
        crystal.positions += velocities
        agree(kept, crystal)
    assert 2 < kept.num_made < 15


def test_two_atoms_that_meet_are_found_at_the_last_moment():
    """One pair approaches head-on from just outside of the list, all others are still."""
    atoms = Atoms("Cu4", positions=[[0, 0, 0], [R_MAX + SKIN + 1e-3, 0, 0], [0, 50, 0], [0, 0, 50]])
    kept = KeptEdges(R_MAX, NAMES)
    assert kept(atoms).edge_index.shape[1] == 0
    for _ in range(60):
        atoms.positions[0, 0] += 0.005
        atoms.positions[1, 0] -= 0.005
        agree(kept, atoms)
    assert kept(atoms).edge_index.shape[1] == 2


def test_list_holds_while_the_cell_breathes(crystal):
    kept = KeptEdges(R_MAX, NAMES)
    start = crystal.cell.array.copy()
    rng = np.random.default_rng(2)
    for step in range(20):
        strain = 0.02 * np.sin(step) * np.diag([1.0, -0.5, 0.3])
        crystal.set_cell(start @ (np.eye(3) + strain), scale_atoms=True)
        crystal.positions += rng.normal(0.0, 0.005, crystal.positions.shape)
        agree(kept, crystal)
    assert kept.num_made == 1


def test_compression_beyond_the_skin_makes_a_new_list(crystal):
    kept = KeptEdges(R_MAX, NAMES)
    agree(kept, crystal)
    crystal.set_cell(0.85 * crystal.cell.array, scale_atoms=True)
    agree(kept, crystal)
    assert kept.num_made == 2


def test_a_drift_of_the_whole_crystal_is_no_motion(crystal):
    kept = KeptEdges(R_MAX, NAMES)
    for _ in range(5):
        crystal.positions += [3.0, -1.0, 0.5]
        agree(kept, crystal)
    assert kept.num_made == 1


def test_another_structure_makes_a_new_list(crystal):
    kept = KeptEdges(R_MAX, NAMES)
    agree(kept, crystal)
    swapped = crystal.copy()
    swapped.symbols[:2] = ["Cu", "Au"]
    agree(kept, swapped)
    agree(kept, swapped * (1, 1, 2))
    open_one = swapped.copy()
    open_one.pbc = False
    agree(kept, open_one)
    agree(kept, Atoms("Cu", positions=[[0, 0, 0]]))
    agree(kept, Atoms())
    assert kept.num_made == 6


def test_wrong_structures_are_refused_after_a_good_one(crystal):
    kept = KeptEdges(R_MAX, NAMES)
    kept(crystal)
    crystal.positions[3, 1] = np.nan
    with pytest.raises(KanMdError, match="NaN or infinity at atom 3"):
        kept(crystal)
    crystal.positions[3, 1] = 0.0
    crystal.symbols[0] = "H"
    with pytest.raises(KanMdError, match=r"got H; allowed: Cu, Au"):
        kept(crystal)


def test_atoms_that_come_to_sit_on_one_another_are_refused(crystal):
    kept = KeptEdges(R_MAX, NAMES)
    for distance in (0.001, 0.009):
        crystal.positions[2] = crystal.positions[5] + [0, 0, 0.02] + crystal.cell[0]
        agree(kept, crystal)
        crystal.positions[2, 2] += distance - 0.02
        for find in (kept, lambda atoms: edge_graph(atoms, R_MAX, NAMES)):
            with pytest.raises(
                KanMdError, match=rf"got numbers 2 and 5 at a distance of {distance}"
            ):
                find(crystal)


def test_a_cell_that_is_not_finite_is_refused_after_a_good_one(crystal):
    kept = KeptEdges(R_MAX, NAMES)
    kept(crystal)
    crystal.cell[1, 1] = np.inf
    with pytest.raises(KanMdError, match="cell vectors must be finite"):
        kept(crystal)
