"""Functions left out of a readout: the errors are those of the model without them."""

import json

import ase.io
import numpy as np
import pytest
import torch

from kan_md.cli.main import main
from kan_md.evaluate.functions import learned_functions
from kan_md.evaluate.pruning import pruned_errors
from kan_md.kan.layer import KANLayer
from kan_md.model.checkpoint import load_checkpoint, save_checkpoint
from kan_md.model.reference import evaluate

NAMES = ("Cu", "Au")
LOCAL = {"num_interactions": 1, "hidden_irreps": "4x0e", "type_names": NAMES}


def without_readout(checkpoint, frames):
    """Errors of the constant energy per type that is left, fitted to the model's own energies."""
    model = checkpoint.build().eval()
    found = [evaluate(model, atoms) for atoms in frames]
    symbols = np.concatenate([atoms.get_chemical_symbols() for atoms in frames])
    own = np.concatenate([one["atomic_energy"].numpy()[:, 0] for one in found])
    means = {name: own[symbols == name].mean() for name in NAMES}
    energy = np.mean(
        [
            abs(sum(means[s] for s in atoms.symbols) - atoms.get_potential_energy()) / len(atoms)
            for atoms in frames
        ]
    )
    forces = np.mean(np.abs(np.concatenate([atoms.get_forces() for atoms in frames])))
    return energy, forces


@pytest.mark.parametrize("readout", [{}, {"per_type": True}], ids=["shared", "per type"])
@pytest.mark.parametrize("scale", [1.0, {"Cu": 0.5, "Au": 3.0}], ids=["unscaled", "scaled"])
def test_none_left_out_is_the_model_and_all_left_out_is_a_constant(
    tiny_checkpoint, alloy_frames, readout, scale
):
    checkpoint = load_checkpoint(
        tiny_checkpoint("mace", readout=readout, per_type_energy_scales=scale, **LOCAL)
    )
    functions = learned_functions(checkpoint, alloy_frames)
    rows = pruned_errors(checkpoint, functions, alloy_frames)
    count = 8 if readout else 4
    assert [row.of for row in rows] == [count] * len(rows)
    assert rows[0].left_out == 0 and rows[-1].left_out == count
    model = checkpoint.build().eval()
    found = [evaluate(model, atoms) for atoms in alloy_frames]
    energy = np.mean(
        [
            abs(float(one["energy"]) - atoms.get_potential_energy()) / len(atoms)
            for one, atoms in zip(found, alloy_frames, strict=True)
        ]
    )
    assert rows[0].energy_mae == pytest.approx(energy, rel=1e-8)
    energy, forces = without_readout(checkpoint, alloy_frames)
    assert rows[-1].energy_mae == pytest.approx(energy, rel=1e-8)
    assert rows[-1].forces_mae == pytest.approx(forces, rel=1e-8)


def test_unused_functions_go_first_and_change_nothing(tiny_checkpoint, alloy_frames):
    checkpoint = load_checkpoint(tiny_checkpoint("mace", **LOCAL))
    model = checkpoint.build()
    (layer,) = (m for m in model.modules() if isinstance(m, KANLayer))
    with torch.no_grad():
        for number in (0, 2, 3):
            layer.coefficients[:, number] = 0.0
            layer.base_weight[:, number] = 0.0
    checkpoint.state_dict = model.state_dict()
    functions = learned_functions(checkpoint, alloy_frames)
    assert {f.number for f in functions if f.role == "unused"} == {0, 2, 3}
    rows = pruned_errors(checkpoint, functions, alloy_frames)
    assert [row.left_out for row in rows] == [0, 1, 2, 3, 4]
    for row in rows[1:4]:
        assert row.forces_mae == rows[0].forces_mae
        assert row.energy_mae == rows[0].energy_mae
    assert rows[4].forces_mae != rows[0].forces_mae


def test_functions_of_edges_have_no_constant_to_give_back(tiny_checkpoint, alloy_frames):
    checkpoint = load_checkpoint(tiny_checkpoint("allegro", type_names=NAMES))
    rows = pruned_errors(checkpoint, learned_functions(checkpoint, alloy_frames), alloy_frames)
    shifts = {"Cu": -1.0, "Au": -2.0}  # of the tiny checkpoints
    energy = np.mean(
        [
            abs(sum(shifts[s] for s in atoms.symbols) - atoms.get_potential_energy()) / len(atoms)
            for atoms in alloy_frames
        ]
    )
    assert rows[-1].energy_mae == pytest.approx(energy, rel=1e-8)


def test_command_prints_the_errors(tmp_path, tiny_checkpoint, alloy_frames, capsys):
    path = save_checkpoint(
        load_checkpoint(tiny_checkpoint("mace", type_names=NAMES, readout={"hidden": [2]})),
        tmp_path / "model.pth",
    )
    ase.io.write(tmp_path / "alloy.xyz", alloy_frames)
    words = ["inspect", str(path), "--prune", "--data", str(tmp_path / "alloy.xyz")]
    outputs = []
    for more in ([], ["--json"]):
        with pytest.raises(SystemExit) as status:
            main([*words, *more])
        assert status.value.code == 0
        outputs.append(capsys.readouterr().out)
    rows = json.loads(outputs[1])["pruning"]
    assert f"{rows[-1]['of']} of {rows[-1]['of']}" in outputs[0]
    assert f"{1e3 * rows[0]['forces_mae']:.4g}" in outputs[0]
