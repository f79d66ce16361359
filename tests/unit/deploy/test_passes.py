"""Every pass keeps the function: energies, forces, virial, ghosts, no edges, several elements."""

import pytest

from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint
from kan_md.tasks.potential_deviation import deviation
from kan_md.tasks.potential_function import make_edge_model
from kan_md_deploy.judged_graphs import reference_graphs
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.registry import choose_passes, run_passes

ALLOY = {"type_names": ("Cu", "Au")}
ZBL = {
    "pair_potential": {
        "_target_": "nequip.nn.pair_potential.ZBL",
        "units": "metal",
        "chemical_species": ["Cu", "Au"],
    }
}
DEEP = {"num_layers": 3, "l_max": 2, "allegro_mlp_hidden_layers_depth": 2}


def optimise(path, passes, **options):
    """The eager model, the rewritten one, frames to compare them on, and the passes' reports."""
    checkpoint = load_checkpoint(path)
    graphs = reference_graphs(checkpoint)[:2]
    eager, rewritten = checkpoint.build("float64"), checkpoint.build("float64")
    context = PassContext(
        static_shapes=options.get("static_shapes", False),
        num_types=len(checkpoint.type_names),
        r_max=checkpoint.r_max,
        bound=options.get("bound", 1e-6),
        graphs=tuple(graphs),
    )
    reports = run_passes(rewritten, choose_passes(passes), context)
    return make_edge_model(eager), make_edge_model(rewritten), graphs, reports


@pytest.mark.parametrize(
    "keywords",
    [
        pytest.param({}, id="one layer"),
        pytest.param(ALLOY, id="two elements"),
        pytest.param(ALLOY | ZBL, id="pair potential"),
        pytest.param(DEEP | ALLOY, id="three layers, deep latents"),
        pytest.param({"tp_path_channel_coupling": False, "parity": False}, id="shared paths"),
        pytest.param({"allegro_mlp_hidden_layers_depth": 0}, id="linear latents"),
        pytest.param(
            {"readout": {"sites": ["all"], "num_basis": 4}, "num_layers": 2}, id="KAN everywhere"
        ),
        pytest.param({"readout": {"kind": "mlp"}} | ALLOY, id="mlp readout"),
        pytest.param({"readout": {"kind": "linear"}}, id="linear readout"),
        pytest.param(
            {"avg_num_neighbors": {"Cu": 12.0, "Au": 24.0}} | ALLOY, id="norm per element"
        ),
    ],
)
def test_centre_factored_allegro_is_the_same_function(tiny_checkpoint, keywords):
    eager, factored, graphs, reports = optimise(
        tiny_checkpoint("allegro", **keywords), "centre_factored"
    )
    assert reports == {"centre_factored": {"bound": 0.0}}
    found = deviation(factored, eager, graphs)
    assert found.energy < 1e-12
    assert found.force < 1e-11
    assert found.virial < 1e-11


def test_passes_leave_other_backbones_alone(tiny_checkpoint):
    _, _, _, reports = optimise(tiny_checkpoint("nequip"), "centre_factored")
    assert reports == {}


def test_unknown_pass_is_named():
    with pytest.raises(KanMdError, match=r"unknown optimisation pass, got 'fusion'; allowed: none"):
        choose_passes("centre_factored,fusion")


def test_radial_tables_and_collapse_stay_within_their_bounds(tiny_checkpoint):
    eager, rewritten, graphs, reports = optimise(
        tiny_checkpoint("allegro", **ALLOY), "default", bound=1e-7
    )
    assert list(reports) == ["centre_factored", "radial_tables", "kan_collapse"]
    assert reports["radial_tables"]["bound"] <= 1e-7
    assert reports["radial_tables"]["slope_bound"] <= 1e-7
    assert reports["radial_tables"]["pairs"] == 4
    assert reports["kan_collapse"]["bound"] <= 1e-7
    found = deviation(rewritten, eager, graphs)
    assert found.force < 1e-6
    assert found.virial < 1e-6
