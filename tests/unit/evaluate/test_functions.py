"""Functions of a KAN readout against the energies of the model that they are part of."""

import json

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms

from kan_md.cli.main import main
from kan_md.errors import KanMdError
from kan_md.evaluate.functions import learned_functions
from kan_md.kan.layer import KANLayer
from kan_md.model.checkpoint import load_checkpoint, save_checkpoint
from kan_md.model.reference import evaluate

NAMES = ("Cu", "Au")
SHIFTS = {"Cu": -1.0, "Au": -2.0}  # of the tiny checkpoints
LOCAL = {"num_interactions": 1, "hidden_irreps": "4x0e", "type_names": NAMES}


@pytest.fixture(scope="module")
def with_one_function(tiny_checkpoint):
    """``with_one_function(backbone, number, ...)``: all functions zero but those of one input."""

    def make(backbone: str, number: int, **keywords):
        checkpoint = load_checkpoint(tiny_checkpoint(backbone, **keywords))
        model = checkpoint.build()
        with torch.no_grad():
            for layer in model.modules():
                if isinstance(layer, KANLayer):
                    others = torch.arange(layer.in_features) != number
                    layer.coefficients[:, others] = 0.0
                    layer.base_weight[:, others] = 0.0
        checkpoint.state_dict = model.state_dict()
        return checkpoint

    return make


@pytest.mark.parametrize("readout", [{}, {"per_type": True}], ids=["shared", "per type"])
@pytest.mark.parametrize("scale", [1.0, {"Cu": 0.5, "Au": 3.0}], ids=["unscaled", "scaled"])
def test_the_only_function_is_the_energy_of_the_atoms(
    with_one_function, alloy_frames, readout, scale
):
    checkpoint = with_one_function(
        "mace", 2, readout=readout, per_type_energy_scales=scale, **LOCAL
    )
    functions = learned_functions(checkpoint, alloy_frames)
    assert len(functions) == 2 * 4
    model = checkpoint.build().eval()
    frames = [evaluate(model, atoms) for atoms in alloy_frames]
    energies = np.concatenate([frame["atomic_energy"].numpy()[:, 0] for frame in frames])
    symbols = np.concatenate([atoms.get_chemical_symbols() for atoms in alloy_frames])
    for name in NAMES:
        first, *others = [f for f in functions if f.type_name == name]
        mine = energies[symbols == name] - SHIFTS[name]
        assert (first.number, first.unit, first.rows) == (2, "eV", "atoms")
        assert first.counts.sum() == len(mine)
        assert first.spread == pytest.approx(mine.std(), rel=1e-9)
        assert 0.0 < first.contribution < first.spread
        # With its line it is the function itself: no energy of an atom lies off the curve.
        whole = first.curves[0] + first.constant[0] + first.slope[0] * first.argument
        assert whole.min() <= mine.min() and mine.max() <= whole.max()
        assert all(f.spread == f.contribution == 0.0 for f in others)


def test_a_function_of_edges_is_their_share_of_the_energy(with_one_function):
    checkpoint = with_one_function("allegro", 1, type_names=NAMES)
    dimers = [Atoms("Cu2", [[0, 0, 0], [r, 0, 0]]) for r in np.linspace(2.0, 3.6, 7)]
    functions = learned_functions(checkpoint, dimers)
    model = checkpoint.build().eval()
    shares = [(float(evaluate(model, a)["energy"]) - 2 * SHIFTS["Cu"]) / 2 for a in dimers]
    assert {f.type_name for f in functions} == {"Cu"}
    assert functions[0].rows == "edges" and functions[0].counts.sum() == 2 * len(dimers)
    assert functions[0].spread == pytest.approx(np.sqrt(np.mean(np.square(shares))), rel=1e-9)
    assert functions[0].constant[0] == 0.0


def test_line_and_curve_are_the_function_and_the_line_is_the_best_one(tiny_checkpoint):
    checkpoint = load_checkpoint(tiny_checkpoint("nequip", type_names=NAMES))
    (layer,) = (m for m in checkpoint.build().modules() if isinstance(m, KANLayer))
    for function in learned_functions(checkpoint):
        number = function.number
        x = torch.zeros(len(function.argument), layer.in_features, dtype=torch.float64)
        x[:, number] = torch.from_numpy(function.argument)
        exact = layer.double().univariate(x)[:, number, 0].detach().numpy()
        whole = function.curves[0] + function.constant[0] + function.slope[0] * function.argument
        np.testing.assert_allclose(whole, exact, atol=1e-12)
    by_type = [[f.contribution for f in learned_functions(checkpoint) if f.type_name == n]
               for n in NAMES]  # fmt: skip
    assert all(sizes == sorted(sizes, reverse=True) for sizes in by_type)


def test_hidden_layers_show_the_first_one(tiny_checkpoint, alloy_frames):
    readout = {"hidden": [3], "projection": 2}
    checkpoint = load_checkpoint(tiny_checkpoint("mace", readout=readout, **LOCAL))
    functions = learned_functions(checkpoint, alloy_frames)
    assert len(functions) == 2 * 2  # combinations times types
    assert {(f.unit, f.curves.shape[0]) for f in functions} == {("", 3)}


def test_arguments_beyond_the_grid_are_counted(tiny_checkpoint, alloy_frames):
    checkpoint = load_checkpoint(tiny_checkpoint("mace", **LOCAL))
    model = checkpoint.build()
    (layer,) = (m for m in model.modules() if isinstance(m, KANLayer))
    assert {f.outside for f in learned_functions(checkpoint, alloy_frames)} == {0.0}
    with torch.no_grad():
        layer.input_gain[0] = -1e4  # the grid, turned round, covers next to nothing
    checkpoint.state_dict = model.state_dict()
    found = [f for f in learned_functions(checkpoint, alloy_frames) if f.number == 0]
    assert all(f.outside > 0.9 and f.grid[0] < f.grid[1] for f in found)


def test_models_without_a_kan_at_their_output_are_refused(tiny_checkpoint):
    for keywords in ({"readout": {"kind": "linear"}}, {"readout": {"kind": "mlp"}}):
        checkpoint = load_checkpoint(tiny_checkpoint("mace", **keywords))
        with pytest.raises(KanMdError, match="allowed: a potential with a KAN at its output"):
            learned_functions(checkpoint)
    checkpoint = load_checkpoint(tiny_checkpoint("allegro", readout={"sites": ["two_body"]}))
    with pytest.raises(KanMdError, match=r"readout\.kind kan at two_body"):
        learned_functions(checkpoint)
    atom = [Atoms("Ag", [[0.0, 0.0, 0.0]])]
    with pytest.raises(KanMdError, match="too few atoms to draw functions over"):
        learned_functions(load_checkpoint(tiny_checkpoint("mace")), atom)


@pytest.mark.parametrize("readout", [{"num_basis": 4}, {"num_basis": 4, "hidden": [2]}])
def test_command_draws_and_prints_them(tmp_path, tiny_checkpoint, alloy_frames, capsys, readout):
    path = save_checkpoint(
        load_checkpoint(tiny_checkpoint("mace", type_names=NAMES, readout=readout)),
        tmp_path / "model.pth",
    )
    ase.io.write(tmp_path / "alloy.xyz", alloy_frames)
    words = ["inspect", path, "--plot", tmp_path / "f.svg", "--data", tmp_path / "alloy.xyz"]
    outputs = []
    for more in ([], ["--json"]):
        with pytest.raises(SystemExit) as status:
            main([str(word) for word in [*words, *more]])
        assert status.value.code == 0
        outputs.append(capsys.readouterr().out)
    functions = json.loads(outputs[1])["functions"]
    assert {f["place"] for f in functions} == {"layer 1", "layer 2"}
    first = functions[0]
    assert f"{first['type_name']}, {first['place']}, k = {first['number'] + 1}:" in outputs[0]
    assert "hidden" in (tmp_path / "f.svg").read_text() or "hidden" not in readout
