"""The neighbour list against a plain sum over images."""

from itertools import product

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.geometry import complete_cell

from kan_md.errors import KanMdError
from kan_md.model.graph import edge_graph, periodic_edges
from kan_md.model.reference import model_input

CELL = np.array([[3.1, 0.0, 0.0], [1.4, 2.9, 0.0], [-0.8, 0.7, 3.4]])


def brute_force(atoms: Atoms, r_max: float, reach: int = 6) -> list[tuple]:
    """All (centre, neighbour, vector) by looping over images."""
    ranges = [range(-reach, reach + 1) if periodic else (0,) for periodic in atoms.pbc]
    found = []
    for shift in product(*ranges):
        offset = np.array(shift) @ atoms.cell.array
        for i, j in product(range(len(atoms)), repeat=2):
            vector = atoms.positions[j] + offset - atoms.positions[i]
            length = np.linalg.norm(vector)
            if length < r_max and not (i == j and shift == (0, 0, 0)):
                found.append((i, j, *np.round(vector, 8)))
    return sorted(found)


def listed(atoms: Atoms, r_max: float) -> list[tuple]:
    vectors, index, _ = edge_graph(atoms, r_max, ["Cu", "Au"])
    rows = zip(index[0].tolist(), index[1].tolist(), vectors.numpy(), strict=True)
    return sorted((i, j, *np.round(vector, 8)) for i, j, vector in rows)


@pytest.mark.parametrize("pbc", [True, False, (True, True, False), (False, True, False)])
@pytest.mark.parametrize("shift", [0.0, 7.0])
def test_edges_are_all_pairs_within_the_cutoff(pbc, shift):
    rng = np.random.default_rng(0)
    positions = rng.uniform(0, 1, (4, 3)) @ CELL + shift  # also outside of the cell
    atoms = Atoms("CuAuCuAu", positions=positions, cell=CELL, pbc=pbc)
    assert np.array(listed(atoms, 3.9)) == pytest.approx(np.array(brute_force(atoms, 3.9)))


@pytest.mark.parametrize(
    "atoms",
    [
        Atoms("Cu2", positions=[[0, 0, 0], [2.0, 0, 0]]),  # no cell, on a line
        Atoms("Cu3", positions=[[0, 0, 0], [2, 0, 0], [0, 2.1, 0]]),  # no cell, in a plane
        Atoms("Cu", cell=[2.5, 2.5, 2.5], pbc=True),  # sees only its own images
        Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 99.0]]),
    ],
)
def test_edges_of_unusual_structures(atoms):
    assert listed(atoms, 3.0) == brute_force(atoms, 3.0)


SLAB = CELL * np.array([[1], [1], [0]])  # without a third vector

STRANGE = {
    "crystal": Atoms("CuAuCu", scaled_positions=[[0.1, 0, 0], [0.6, 0.4, 0.2], [1.3, 0, 0.9]],
                     cell=CELL, pbc=True),
    "outside an open direction": Atoms("CuAuCu", positions=[[0, 0, -9.0], [1, 1, -7.5], [4, 1, 8]],
                                       cell=CELL, pbc=(True, True, False)),
    "far outside everywhere": Atoms("CuAu", positions=[[70, -40, 33.0], [-25, 61, 34.5]],
                                    cell=CELL, pbc=(True, True, False)),
    "wire": Atoms("CuAu", positions=[[5, -6, 0.0], [5, -4.5, 9]], cell=CELL,
                  pbc=(False, False, True)),
    "no third vector": Atoms("CuAu", positions=[[9, 0, 5.0], [0, 0, 6.5]], cell=SLAB,
                             pbc=(True, True, False)),
    "vectors in a plane": Atoms("CuAu", positions=[[9, 0, 5.0], [0, 0, 6.5]],
                                cell=[CELL[0], CELL[1], CELL[0] + CELL[1]],
                                pbc=(True, True, False)),
    "left-handed": Atoms("CuAu", positions=[[0, 0, 0], [1.3, 1.2, 9]], cell=CELL[[1, 0, 2]],
                         pbc=True),
    "tiny": Atoms("Cu", cell=[1.1, 1.2, 1.3], pbc=True),
    "flat cell": Atoms("Cu", cell=[[2, 0, 0], [1.95, 0.5, 0], [0, 0, 3]], pbc=True),
    "no cell": Atoms("CuAu", positions=[[-30, 0, 0], [-28, 0, 0]]),
    "box of a molecule": Atoms("CuAu", positions=[[-30, 0, 0], [-28, 0, 0]], cell=[9, 9, 9]),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_shifts_and_cell_rebuild_the_vectors(name):
    atoms = STRANGE[name]
    edges = periodic_edges(atoms, 4.2)
    assert edges.edge_index.shape[1] > 0
    centres, neighbours = edges.edge_index
    assert (centres.diff() >= 0).all()
    assert not edges.edge_cell_shift[:, ~torch.from_numpy(atoms.pbc)].any()
    data = model_input(atoms, 4.2, ["Cu", "Au"])  # what a model sees
    positions = data["pos"]
    rebuilt = positions[neighbours] - positions[centres]
    if atoms.pbc.any():
        rebuilt = rebuilt + data["edge_cell_shift"] @ data["cell"].view(3, 3)
    torch.testing.assert_close(edges.edge_vectors, rebuilt, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", STRANGE)
def test_edges_of_strange_cells_are_all_pairs(name):
    atoms = STRANGE[name].copy()
    if not atoms.cell.volume:
        atoms.cell = complete_cell(atoms.cell.array * atoms.pbc[:, None])
    atoms.wrap()  # moves atoms along periodic directions only
    reach = 14 if name == "flat cell" else 6
    same = brute_force(atoms, 4.2, reach)
    assert np.array(listed(STRANGE[name], 4.2)) == pytest.approx(np.array(same), abs=1e-7)


def test_types_follow_the_names_and_dtypes_the_contract():
    atoms = Atoms("AuCuAu", [(0, 0, 0), (2, 0, 0), (0, 2, 0)])
    vectors, index, types = edge_graph(atoms, 3.0, ["Cu", "Au"])
    assert types.tolist() == [1, 0, 1]
    assert (vectors.dtype, index.dtype, types.dtype) == (
        torch.float64,
        torch.int64,
        torch.int64,
    )
    empty = edge_graph(Atoms(), 3.0, ["Cu"])
    assert [tuple(part.shape) for part in empty] == [(0, 3), (2, 0), (0,)]


def test_unknown_element_and_bad_positions_are_named():
    with pytest.raises(KanMdError, match="does not know, got H; allowed: Cu, Au"):
        edge_graph(Atoms("CuH"), 3.0, ["Cu", "Au"])
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [0, float("nan"), 1]])
    with pytest.raises(KanMdError, match="positions must be finite, got NaN or infinity at atom 1"):
        edge_graph(atoms, 3.0, ["Cu"])


@pytest.mark.parametrize(
    "atoms",
    [
        Atoms("Cu", pbc=True),
        Atoms("Cu", cell=[3, 3, 0], pbc=True),
        Atoms("Cu", cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]], pbc=True),
        Atoms("Cu", cell=[[3, 0, 0], [6, 0, 0], [0, 0, 9]], pbc=(True, True, False)),
    ],
)
def test_a_cell_that_is_none_is_refused(atoms):
    with pytest.raises(KanMdError, match="cell vectors of Cu, got"):
        periodic_edges(atoms, 3.0)
