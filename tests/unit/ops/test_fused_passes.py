"""NequIP and MACE on operators are the functions that upstream's modules compute."""

from __future__ import annotations

import copy
from dataclasses import replace

import ase.build
import pytest
import torch

from kan_md.backbones.build import build_model
from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.tasks.potential_deviation import deviation
from kan_md.tasks.potential_function import make_edge_model
from kan_md_deploy.judged_graphs import close_dimers, graph_of
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.fused_message_passing import FUSED_MACE, FUSED_NEQUIP
from kan_md_deploy.passes.message_passing.atoms_per_layer import centres_per_layer
from kan_md_deploy.torchscript import compile_torchscript

R_MAX = 2.8
PASSES = {"mace": FUSED_MACE, "nequip": FUSED_NEQUIP}
MACE = {"hidden_irreps": "4x0e+4x1o", "radial_MLP": (8,), "max_ell": 2, "correlation": 2}
NEQUIP = {"num_layers": 2, "l_max": 2, "num_features": [5, 4, 3], "radial_mlp_width": 8}
RESIDUAL = {"interaction_cls_first": "RealAgnosticResidualInteractionBlock"}
DENSITY = {
    "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
    "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
}
PAIR_CUTOFFS = {"per_edge_type_cutoff": {"C": 2.5, "Si": {"C": 2.7, "Si": R_MAX}}}
ZBL = {
    "pair_potential": {
        "_target_": "nequip.nn.pair_potential.ZBL",
        "units": "metal",
        "chemical_species": ["C", "Si"],
    }
}
CASES = [
    pytest.param("mace", MACE, ["C"], id="mace"),
    pytest.param("mace", MACE | RESIDUAL, ["C", "Si"], id="mace, two elements, residual"),
    pytest.param("mace", MACE | {"correlation": 3, "max_ell": 1}, ["C", "Si"], id="mace, cubic"),
    pytest.param(
        "mace",
        MACE | {"readout": {"kind": "kan", "num_basis": 4, "per_type": True}},
        ["C", "Si"],
        id="mace, functions of each element",
    ),
    pytest.param("mace", MACE | DENSITY, ["C", "Si"], id="mace, densities"),
    pytest.param("mace", MACE | DENSITY | RESIDUAL, ["C"], id="mace, density of the second layer"),
    *(
        pytest.param("mace", MACE | {"num_interactions": layers, "readout": kind}, ["C"], id=name)
        for name, layers, kind in (
            ("mace, one layer, mlp", 1, {"kind": "mlp", "hidden": [7]}),
            ("mace, one layer, linear", 1, {"kind": "linear"}),
            ("mace, one layer, kan", 1, {"kind": "kan", "hidden": [3]}),
            ("mace, two layers, mlp", 2, {"kind": "mlp", "hidden": [7]}),
        )
    ),
    pytest.param(
        "mace",
        MACE | {"readout": "mlp", "readout_cls": "NonLinearBiasReadoutBlock"},
        ["C", "Si"],
        id="mace, mlp with biases",
    ),
    pytest.param("nequip", NEQUIP | {"parity": False}, ["C"], id="nequip without parity"),
    pytest.param("nequip", NEQUIP, ["C", "Si"], id="nequip, two elements, parity"),
    pytest.param("nequip", NEQUIP | PAIR_CUTOFFS, ["C", "Si"], id="nequip, cutoffs by pair"),
    pytest.param("nequip", NEQUIP | ZBL, ["C", "Si"], id="nequip, pair potential"),
]


def build(backbone, keywords, type_names, dtype="float64"):
    return build_model(
        backbone,
        seed=1,
        model_dtype=dtype,
        type_names=type_names,
        r_max=R_MAX,
        avg_num_neighbors=10.0,
        **{"readout": {"kind": "kan", "num_basis": 4}} | keywords,
    )


def rewrite(backbone, model, type_names, *, static_shapes=False):
    chosen = context(static_shapes=static_shapes, num_types=len(type_names))
    assert PASSES[backbone].applies_to(model, chosen)
    report = PASSES[backbone].apply(model, chosen)
    return make_edge_model(model), report


def graph(type_names):
    atoms = ase.build.bulk("C", "diamond", 3.57, cubic=True)
    atoms.rattle(0.08, seed=3)
    atoms.symbols = [type_names[i % len(type_names)] for i in range(len(atoms))]
    return graph_of(atoms, R_MAX, type_names)


def context(**changes):
    usual = PassContext(
        static_shapes=False, num_types=1, r_max=R_MAX, bound=1e-6, graphs=(), operators="fused"
    )
    return replace(usual, **changes)


def test_functions_that_no_table_holds_leave_the_model_alone(operators):
    """mace-torch's Chebyshev polynomials of r are steep beyond measure."""
    with nequip_settings():
        model = build("mace", MACE | {"radial_type": "chebyshev"}, ["C"])
        before = list(model.model.func.named_children())
        report = FUSED_MACE.apply(model, context())
        assert "slope error" in report["skipped"]
        assert list(model.model.func.named_children()) == before


def test_products_of_four_are_left_to_torch(operators):
    with nequip_settings():
        assert not FUSED_MACE.applies_to(build("mace", MACE | {"correlation": 4}, ["C"]), context())


@pytest.mark.parametrize(("backbone", "keywords", "type_names"), CASES)
def test_fused_model_is_the_eager_one_with_ghosts_or_without(
    operators, backbone, keywords, type_names
):
    """In both forms: as TorchScript keeps it, and with shapes that AOTInductor exports.

    What is exported is run as it is, because exporting takes a minute. Ghosts beyond the reach of
    local atoms are left out: two layers, and edges of every atom, of which the last layer needs
    those of local ones.
    """
    frame = graph(type_names)
    with nequip_settings():
        model = build(backbone, keywords, type_names)
        eager = make_edge_model(copy.deepcopy(model))
        exported, _ = rewrite(backbone, copy.deepcopy(model), type_names, static_shapes=True)
        fused, report = rewrite(backbone, model, type_names)
        assert report["bound"] <= 1e-10
        found = deviation(fused, eager, [frame])
        assert found.energy < 1e-10
        assert found.force < 1e-9
        assert found.virial < 1e-9
        for function, num_local in ((compile_torchscript(fused), 1), (exported, 3)):
            inputs = (*frame[:3], torch.tensor([num_local]))
            (expected, expected_forces), (energy, forces) = eager(*inputs), function(*inputs)
            assert energy.shape == expected.shape
            local = slice(0, num_local)
            torch.testing.assert_close(energy[local], expected[local], atol=1e-10, rtol=0)
            torch.testing.assert_close(forces, expected_forces, atol=1e-9, rtol=0)


@pytest.mark.parametrize("backbone", ["nequip", "mace"])
def test_three_layers_leave_out_what_is_bound_to_no_local_atom(operators, backbone):
    """Pairs of atoms far apart: a later layer computes all atoms that an earlier one did, and the
    list of edges goes on to those that none did.
    """
    names = ["C", "Si"]
    pairs = close_dimers((6, 14), R_MAX)
    keywords = {"mace": MACE, "nequip": NEQUIP}[backbone] | {"num_layers": 3}
    with nequip_settings():
        model = build(backbone, keywords, names)
        eager = make_edge_model(copy.deepcopy(model))
        fused, _ = rewrite(backbone, model, names)
        for num_local in range(1, 7):
            inputs = (*pairs[:3], torch.tensor([num_local]))
            (expected, expected_forces), (energy, forces) = eager(*inputs), fused(*inputs)
            local = slice(0, num_local)
            torch.testing.assert_close(energy[local], expected[local], atol=1e-9, rtol=0)
            torch.testing.assert_close(forces, expected_forces, atol=1e-8, rtol=0)


def test_reach_follows_the_edges_of_a_chain():
    """Atoms 0 1 2 3 4 in a row, each bound to the next: one more per layer is reached."""
    left = torch.tensor([0, 1, 1, 2, 2, 3, 3, 4])
    right = torch.tensor([1, 0, 2, 1, 3, 2, 4, 3])
    index = torch.stack([left, right])
    for edges, num_local, expected in (
        (index, 1, [3, 2, 1]),
        (index, 5, [5, 5, 5]),
        (index, 0, [0, 0, 0]),
        (index[:, :0], 2, [2, 2, 2]),
    ):
        centres = centres_per_layer(edges, torch.tensor([num_local]), 3)
        assert [count.tolist() for count in centres] == [[count] for count in expected]


@pytest.mark.parametrize("backbone", ["mace", "nequip"])
def test_pass_leaves_other_backbones_alone(backbone):
    other = {"mace": "nequip", "nequip": "mace"}[backbone]
    keywords = {"mace": MACE, "nequip": NEQUIP}[other]
    with nequip_settings():
        model = build(other, keywords, ["C"])
    assert not PASSES[backbone].applies_to(model, context())


@pytest.mark.parametrize(("backbone", "keywords"), [("mace", MACE), ("nequip", NEQUIP)])
def test_a_bound_of_zero_leaves_tables_out(operators, backbone, keywords):
    with nequip_settings():
        model = build(backbone, keywords, ["C"])
    assert not PASSES[backbone].applies_to(model, context(bound=0.0))
    assert PASSES[backbone].applies_to(model, context())
