"""A strictly local model on LAMMPS' own list is the file's function on a graph of that list.

The same file runs with `direct yes` (the default) and `direct no`, which goes through TorchScript.
"""

import numpy as np
import pytest
from engine import ZERO_STEPS, start_line, system
from structures import ELEMENTS, rattled, structures

from kan_md_deploy import compilation, deploy
from kan_md_deploy.on_lists import EdgeModelOnLists

pytestmark = pytest.mark.lammps

ON_LIST = "on LAMMPS' neighbour list"
MODEL = {"num_interactions": 1, "readout": {"kind": "kan", "num_basis": 5}}
WIDE = MODEL | {"hidden_irreps": "20x0e", "correlation": 2, "model_dtype": "float32"}
"""More channels than one vector has, in single precision."""
OFFSETS = {"num_interactions": 1, "interaction_cls_first": "RealAgnosticResidualInteractionBlock"}
FUSED = {"operators": "fused", "bound": 1e-8}
TWICE = rattled((2, 2, 2), seed=5)
TWICE.symbols[:8] = "Cu"
GOLD = [
    "pair_style hybrid {style} lj/cut 3.0",
    "pair_coeff * * {name} {file} Cu NULL",
    "pair_coeff * 2 lj/cut 0.01 2.5",
]
OVERLAY = [
    "pair_style hybrid/overlay {style} zbl 2.0 3.5",
    "pair_coeff * * {name} {file} Cu Au",
    "pair_coeff 1 1 zbl 29 29",
    "pair_coeff 1 2 zbl 29 79",
    "pair_coeff 2 2 zbl 79 79",
]
MOVES = [
    "velocity all create 900 4711",
    "neighbor 0.5 bin",
    "neigh_modify every 1 delay 0 check yes",
    "fix 1 all nve",
    "timestep 0.002",
    "run 40",
]
# Structure, lines before the box, lines of the pair style, lines after it.
CASES = {name: (atoms, [], None, []) for name, atoms in structures().items()} | {
    "newton off": (structures()["triclinic"], ["newton off"], None, []),
    "one element": (TWICE, [], GOLD, []),
    "overlay": (TWICE, [], OVERLAY, []),
    "an atom left out": (
        TWICE,
        [],
        None,
        ["group out id 3", "group in subtract all out", "neigh_modify exclude group out all"],
    ),
    "a pair of groups left out": (
        TWICE,
        [],
        None,
        ["group a id 1 2 3", "group b id 4 5 6", "neigh_modify exclude group a b"],
    ),
    "on its way": (TWICE, [], None, MOVES),
    "minimised": (TWICE, [], None, ["minimize 0 1e-3 20 100"]),
}
VALUES = ("f", "eatom", "vatom", "cvatom")


@pytest.fixture(scope="module")
def files(alloy_model):
    return {
        "functions": alloy_model("mace", deploy=FUSED, **MODEL),
        "wide": alloy_model("mace", deploy={"operators": "fused"}, **WIDE),
        "offsets": alloy_model("mace", deploy=FUSED, **OFFSETS),
    }


def job(file, case, direct, folder):
    atoms, before, pair, after = CASES[case]
    style = f"mace direct {direct}"
    lines = pair or ["pair_style {style}", "pair_coeff * * {file} Cu Au"]
    lines = [line.format(style=style, name="mace", file=file) for line in lines]
    commands = system(atoms, ELEMENTS, "mace", file, folder=folder, before=before, pair=lines)
    return {"commands": [*commands, *after, *ZERO_STEPS], "computes": ["kanpress"]}


@pytest.mark.parametrize(
    ("ranks", "threads"),
    [(1, 1), (1, 2), pytest.param(2, 1, marks=pytest.mark.mpi)],
)
def test_the_list_gives_what_the_graph_gives(engine, files, tmp_path, ranks, threads):
    chosen = [(model, case) for model in files for case in CASES]
    if (ranks, threads) != (1, 1):
        chosen = [(model, case) for model, case in chosen if model == "functions"]
    jobs = [
        job(files[model], case, direct, tmp_path)
        for model, case in chosen
        for direct in ("yes", "no")
    ]
    results = engine.run(jobs, ranks=ranks, threads=threads)
    for number, case in enumerate(chosen):
        found, expected = results[2 * number : 2 * number + 2]
        assert found.error == expected.error == "", case
        assert ON_LIST in found.output, case
        assert ON_LIST not in expected.output, case
        assert start_line(found.output)[3] == start_line(expected.output)[3], case  # edges
        exact = 2e-6 if case[0] == "wide" else 1e-10
        assert found.energy == pytest.approx(expected.energy, abs=20 * exact), case
        for key in VALUES:
            scale = max(np.abs(expected.atoms[key]).max(), 1.0)
            np.testing.assert_allclose(
                found.atoms[key],
                expected.atoms[key],
                atol=20 * exact * scale,
                err_msg=f"{case} {key}",
            )
        scale = max(np.abs(expected.virial).max(), 1.0)
        np.testing.assert_allclose(found.virial, expected.virial, atol=20 * exact * scale)


def test_a_file_whose_parts_are_not_its_function_is_refused(
    engine, alloy_checkpoint, tmp_path, monkeypatch
):
    def louder(edge_model):
        changed = with_lists(edge_model)
        assert isinstance(changed, EdgeModelOnLists)
        changed.scales = [1.01 * scale for scale in changed.scales]
        return changed

    with_lists = compilation.with_lists
    monkeypatch.setattr(compilation, "with_lists", louder)
    file = deploy(alloy_checkpoint("mace", **MODEL), tmp_path / "wrong.pth", **FUSED)
    refused, taken = engine.run([job(file, "orthogonal", d, tmp_path) for d in ("yes", "no")])
    assert "must be the file's own function" in refused.error
    assert "pair_style mace direct no" in refused.error
    assert taken.error == ""


def test_atoms_without_a_place_and_atoms_on_each_other_are_named(engine, files, tmp_path):
    """As with a graph, by their IDs."""
    doubled = structures()["orthogonal"]
    doubled.positions[5] = doubled.positions[9] + [0.001, 0, 0]
    jobs = []
    for direct in ("yes", "no"):
        lines = [f"pair_style mace direct {direct}", f"pair_coeff * * {files['functions']} Cu Au"]
        commands = system(doubled, ELEMENTS, "mace", "", folder=tmp_path, pair=lines)
        jobs.append({"commands": [*commands, "run 0"]})
        commands = system(TWICE, ELEMENTS, "mace", "", folder=tmp_path, pair=lines)
        nowhere = ["run 0", "variable nan atom 'sqrt(-1.0*(id==7))'", "fix 1 all nve"]
        jobs.append(
            {"commands": [*commands, *nowhere, "velocity all set v_nan NULL NULL", "run 1"]}
        )
    on_list, lost, on_graph, lost_too = engine.run(jobs)
    assert "atom IDs 6 and 10" in on_list.error
    assert on_list.error == on_graph.error
    assert lost.error != ""
    assert lost.error == lost_too.error
