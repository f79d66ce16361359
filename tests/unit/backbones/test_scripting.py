"""Every backbone with every readout can be scripted, and says the same from edge vectors alone."""

import copy

import e3nn.util.jit
import pytest
import torch
from nequip.data import AtomicDataDict

from kan_md.model.graph import edge_graph
from kan_md.model.reference import evaluate

R_MAX, TYPES = 4.0, ["Cu", "Au"]
BACKBONES = ["allegro", "nequip", "mace"]
# Gaussians in every backbone: tests/conformance.py. Kinds and bases are the readout's, not theirs.
CASES = [
    *(("allegro", {"kind": "kan", "basis": basis}) for basis in ("gaussian", "bspline", "fourier")),
    ("allegro", {"kind": "linear"}),
    ("nequip", {"kind": "kan", "basis": "bspline"}),
    ("mace", {"kind": "kan", "basis": "fourier"}),
    ("mace", {"kind": "mlp"}),
]


def edge_input(graph) -> dict[str, torch.Tensor]:
    return {
        AtomicDataDict.EDGE_VECTORS_KEY: graph.edge_vectors.clone(),
        AtomicDataDict.EDGE_INDEX_KEY: graph.edge_index,
        AtomicDataDict.ATOM_TYPE_KEY: graph.atom_types,
    }


def forces_from_edges(graph, edge_forces: torch.Tensor) -> torch.Tensor:
    forces = torch.zeros(len(graph.atom_types), 3, dtype=edge_forces.dtype)
    forces.index_add_(0, graph.edge_index[0], edge_forces)
    return forces.index_add_(0, graph.edge_index[1], -edge_forces)


@pytest.mark.parametrize(("backbone", "readout"), CASES)
def test_scripted_model_agrees_with_eager(tiny_model, triclinic, backbone, readout):
    sites = "all" if backbone == "allegro" and readout["kind"] == "kan" else "output"
    model = tiny_model(backbone, {**readout, "sites": sites})
    frame = evaluate(model, triclinic)
    scripted = e3nn.util.jit.script(copy.deepcopy(model))
    graph = edge_graph(triclinic, R_MAX, TYPES)
    for network in (model, scripted):
        out = network(edge_input(graph))
        torch.testing.assert_close(
            out[AtomicDataDict.PER_ATOM_ENERGY_KEY], frame["atomic_energy"], rtol=0, atol=1e-12
        )
        forces = forces_from_edges(graph, out[AtomicDataDict.EDGE_FORCE_KEY])
        torch.testing.assert_close(forces, frame["forces"], rtol=0, atol=1e-11)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_float32_model_is_close_to_float64(tiny_model, triclinic, backbone):
    exact = tiny_model(backbone)
    single = tiny_model(backbone, model_dtype="float32")
    names = {name for name, _ in single.named_parameters()}
    assert {p.dtype for p in single.parameters()} == {torch.float32}
    assert names == {name for name, _ in exact.named_parameters()}
    single.load_state_dict(exact.state_dict())
    a, b = evaluate(exact, triclinic), evaluate(single, triclinic)
    assert float((a["energy"] - b["energy"]).abs()) < 1e-4
    torch.testing.assert_close(a["forces"], b["forces"], rtol=0, atol=2e-4)
