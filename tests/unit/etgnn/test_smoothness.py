"""Predicted tensors while an atom moves through a cutoff."""

import numpy as np
import pytest
import torch
from ase import Atoms
from etgnn_support import LEG_R_MAX, R_MAX, TENSORS, predict

from kan_md.backbones.etgnn import parse_tensors
from kan_md.backbones.etgnn.triplets import build_triplets
from kan_md.model.graph import edge_graph

SPECS = parse_tensors(TENSORS)
STEP = 2e-3
OFFSETS = STEP * np.arange(-20, 21)


def edge_crossing(offset: float) -> Atoms:
    """Na leaves the edge cutoff of the first Mg; triplets stay as they are."""
    positions = [[0, 0, 0], [1.9, 0.3, 0], [R_MAX + offset, 0, 0], [R_MAX + 1.8, 0.5, 0.3]]
    return Atoms("MgONaO", positions=positions)


def leg_crossing(offset: float) -> Atoms:
    """Na leaves the leg cutoff of O and stays an edge of O; the angle at O is 100°."""
    angle = np.deg2rad(100.0)
    leg = (LEG_R_MAX + offset) * np.array([np.cos(angle), np.sin(angle), 0])
    return Atoms("OMgNa", positions=[[0, 0, 0], [1.6, 0, 0], leg])


def count(atoms: Atoms) -> tuple[int, int]:
    graph = edge_graph(atoms, R_MAX, ("Mg", "Na", "O"))
    near, _ = build_triplets(graph.edge_vectors, graph.edge_index, len(atoms), LEG_R_MAX)
    return graph.edge_index.size(1), len(near)


@pytest.mark.parametrize(
    ("crossing", "lost"),
    [(edge_crossing, (2, 0)), (leg_crossing, (0, 2))],
    ids=["edge", "triplet_leg"],
)
@pytest.mark.parametrize(
    "readout", [{"basis": "gaussian", "sites": "all"}, "mlp", "linear"], ids=str
)
def test_tensors_are_smooth_where_a_cutoff_is_crossed(build, crossing, lost, readout):
    before, after = count(crossing(OFFSETS[0])), count(crossing(OFFSETS[-1]))
    assert tuple(np.subtract(before, after)) == lost
    model = build(tensors=TENSORS, readout=readout)
    frames = [predict(model, crossing(offset)) for offset in OFFSETS]
    middle = len(OFFSETS) // 2
    for spec in SPECS:
        values = torch.stack([frame[spec.field].flatten() for frame in frames])
        assert values.std(0).max() > 1e-6  # the moving atom is felt
        # A jump in the value or the slope shows up as a second difference that stands out.
        second = (values[2:] - 2 * values[1:-1] + values[:-2]).abs().amax(1) / STEP**2
        at_crossing = second[middle - 2 : middle + 1].max()
        elsewhere = torch.cat([second[: middle - 2], second[middle + 1 :]]).max()
        assert at_crossing <= 1.2 * elsewhere + 1e-7, spec.name


def test_an_atom_out_of_reach_does_not_matter(build):
    model = build(tensors=TENSORS)
    far = edge_crossing(0.0)
    far.positions[2:] += [50.0, 0, 0]
    alone = far[:2]
    both, one = predict(model, far), predict(model, alone)
    for spec in SPECS:
        if spec.per == "atom" and not spec.projects:
            torch.testing.assert_close(both[spec.field][:2], one[spec.field])


def test_an_isolated_atom_keeps_the_isotropic_part_of_its_type(build):
    tensors = [{"name": "bec", "acoustic_sum_rule": False}, {"name": "vector", "rank": 1}]
    model = build(tensors=tensors, type_shifts={"bec": [2.0, 1.0, -2.0]})
    out = predict(model, Atoms("O"))
    torch.testing.assert_close(
        out["born_effective_charges"], -2.0 * torch.eye(3, dtype=torch.float64).view(1, 3, 3)
    )
    assert torch.equal(out["vector"], torch.zeros(1, 3, dtype=torch.float64))
