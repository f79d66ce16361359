"""Exported potentials say in upstream's own tools what they say here."""

import json

import pytest
import torch

from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.cli.main import main
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.export_nequip import export_nequip
from kan_md.model.reference import evaluate

TYPES = ("Cu", "Au")
MODELS = {
    "allegro": ("allegro", {}),
    "nequip, linear": ("nequip", {"readout": "linear", "per_type_energy_scales": None}),
    "mace, per element": ("mace", {"readout": {"per_type": True, "num_basis": 5}}),
    "mace, float32": ("mace", {"model_dtype": "float32", "num_interactions": 1}),
}


def status(command):
    with pytest.raises(SystemExit) as ended:
        main(command)
    return ended.value.code or 0


@pytest.mark.parametrize("name", MODELS)
def test_nequips_calculator_says_what_the_model_says(tiny_checkpoint, alloy_frames, tmp_path, name):
    from nequip.integrations.ase import NequIPCalculator

    backbone, keywords = MODELS[name]
    path = tiny_checkpoint(backbone, type_names=TYPES, **keywords)
    checkpoint = load_checkpoint(path)
    export_nequip(checkpoint, tmp_path / "model.ckpt")
    model = checkpoint.build()
    atoms = alloy_frames[0].copy()
    with nequip_settings():
        atoms.calc = NequIPCalculator._from_saved_model(
            str(tmp_path / "model.ckpt"), chemical_species_to_atom_type_map=True
        )
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    expected = evaluate(model, atoms)
    tolerance = 1e-8 if checkpoint.dtype == "float64" else 1e-4
    assert energy == pytest.approx(float(expected["energy"]), abs=tolerance)
    torch.testing.assert_close(
        torch.from_numpy(forces).double(), expected["forces"], rtol=0, atol=tolerance
    )


def test_checkpoint_holds_no_code_and_an_example(tiny_checkpoint, tmp_path):
    from nequip.model.saved_models.checkpoint import data_dict_from_checkpoint

    checkpoint = load_checkpoint(tiny_checkpoint("allegro", type_names=TYPES))
    export_nequip(checkpoint, tmp_path / "model.ckpt")
    torch.load(tmp_path / "model.ckpt", weights_only=True)  # plain data
    with nequip_settings():
        data = data_dict_from_checkpoint(str(tmp_path / "model.ckpt"))
    frame = checkpoint.reference_frames[0]
    assert data["atom_types"].flatten().tolist() == frame["atom_types"].tolist()
    assert data["edge_index"].size(1) > 0
    checkpoint.reference_frames = []
    with pytest.raises(KanMdError, match="needs reference frames"):
        export_nequip(checkpoint, tmp_path / "model.ckpt")


def test_command_writes_two_files_and_refuses_by_name(tiny_checkpoint, tmp_path, capsys):
    path = tiny_checkpoint("nequip", type_names=TYPES)
    command = ["export", str(path), "--format", "nequip", "-o", str(tmp_path / "model.ckpt")]
    assert status([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["passes"] == "none"
    assert {p.name for p in tmp_path.iterdir()} == {"model.ckpt", "model.xyz"}
    assert status(command) == 2
    assert "existing file" in capsys.readouterr().err
    assert status([*command[:-1], str(tmp_path / "model.pt")]) == 2
    assert "allowed: .ckpt, by which nequip knows it" in capsys.readouterr().err
