"""Files of metatomic say in its own ASE calculator what the deployed file says."""

import json
import subprocess
import sys

import numpy as np
import pytest

from kan_md.cli.main import main
from kan_md_deploy import deploy, load_deployed

TYPES = ("Cu", "Au")
MODELS = {
    "allegro": ("allegro", {"readout": "kan"}),
    "nequip": ("nequip", {}),
    "mace": ("mace", {"model_dtype": "float32"}),
}
WITHOUT = """
import sys

sys.modules["metatomic"] = None  # as where it is not installed
from kan_md.cli.main import main

main(["export", sys.argv[1], "--format", "metatomic"])
"""


def export(model, path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["export", str(model), "--format", "metatomic", "-o", str(path), "--json"])
    assert not ended.value.code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", MODELS)
def test_metatomics_calculator_says_what_the_deployed_file_says(
    tiny_checkpoint, alloy_frames, tmp_path, capsys, name
):
    metatomic_ase = pytest.importorskip("metatomic_ase")
    from metatensor.torch import Labels
    from metatomic.torch import ModelOutput
    from torch import int32, tensor

    backbone, keywords = MODELS[name]
    model = tiny_checkpoint(backbone, type_names=TYPES, **keywords)
    said = export(model, tmp_path / "model.pt", capsys)
    portable = deploy(model, tmp_path / "model.deployed.pth", operators="portable")
    file = load_deployed(portable)
    assert said["passes"] == (", ".join(file.manifest.passes) or "none")
    tolerance = 1e-9 if file.manifest.dtype == "float64" else 1e-5
    calculator = metatomic_ase.MetatomicCalculator(str(tmp_path / "model.pt"))
    for frame in alloy_frames[:2]:
        atoms = frame.copy()
        atoms.calc = calculator
        expected = file.predict(atoms)
        scale = np.abs(expected["forces"]).max()
        assert scale > 1e-3
        assert atoms.get_potential_energy() == pytest.approx(expected["energy"], abs=tolerance)
        assert np.abs(atoms.get_forces() - expected["forces"]).max() < tolerance * scale
        stress, wanted = atoms.get_stress(voigt=False), expected["stress"]
        assert np.abs(stress - wanted).max() < tolerance * np.abs(wanted).max()
        # Atoms that a domain owns, in any order; the others are their neighbours.
        asked = {"energy": ModelOutput(unit="eV", sample_kind="atom")}
        chosen = [len(atoms) - 1, 0, 2]
        rows = tensor([[0, atom] for atom in chosen], dtype=int32)
        found = calculator.run_model(atoms, asked, Labels(["system", "atom"], rows))["energy"]
        owned = found.block().values.detach().numpy().ravel()
        order = [int(atom) for atom in found.block().samples.column("atom")]
        assert sorted(order) == sorted(chosen)
        np.testing.assert_allclose(owned, expected["energies"][order], rtol=0, atol=tolerance)


def test_missing_package_is_said_with_its_remedy(tiny_checkpoint, tmp_path):
    model = tmp_path / "model.pth"
    model.write_bytes(tiny_checkpoint("allegro", type_names=TYPES).read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(model)], capture_output=True, text=True
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert "the package metatomic-torch" in line
    assert "pip install metatomic-torch" in line
    assert not model.with_suffix(".pt").exists()
