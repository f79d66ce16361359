"""Errors against labels made by the model itself: known in advance."""

import json

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from kan_md import KANCalculator
from kan_md.cli.main import main
from kan_md.data import read_frames
from kan_md.errors import KanMdError
from kan_md.evaluate.evaluation import evaluate_file

ENERGY_SHIFT = 0.8  # eV per structure
FORCE_SHIFT = {"Cu": 0.1, "Au": -0.3}  # eV/Å on every component
STRESS_SHIFT = 0.02


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return tiny_checkpoint("allegro", type_names=("Cu", "Au"), r_max=3.5)


@pytest.fixture(scope="module")
def shifted_file(model, alloy_frames, tmp_path_factory):
    """The model's own predictions, displaced by known amounts, as labels."""
    frames = []
    for source in alloy_frames:
        atoms = source.copy()
        atoms.calc = KANCalculator(model)
        shift = np.array([FORCE_SHIFT[symbol] for symbol in atoms.symbols])[:, None]
        labels = {
            "energy": atoms.get_potential_energy() - ENERGY_SHIFT,
            "forces": atoms.get_forces() - shift,
            "stress": atoms.get_stress() - STRESS_SHIFT,
        }
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    path = tmp_path_factory.mktemp("data") / "shifted.xyz"
    ase.io.write(path, frames)
    return path


def test_errors_are_the_known_shifts(model, shifted_file):
    errors = evaluate_file(model, read_frames(shifted_file)).errors
    sizes = [len(atoms) for atoms in ase.io.read(shifted_file, ":")]
    close = {"abs": 1e-6}  # eight decimals in the file
    assert errors["energy_per_structure_mae"] == pytest.approx(0.8, **close)
    assert errors["energy_mae"] == pytest.approx(np.mean([0.8 / n for n in sizes]), **close)
    assert errors["forces_Cu_mae"] == pytest.approx(0.1, **close)
    assert errors["forces_Au_rmse"] == pytest.approx(0.3, **close)
    assert errors["forces_mae"] == pytest.approx(0.2, **close)
    assert errors["forces_rmse"] == pytest.approx(np.sqrt(0.05), **close)
    assert errors["stress_mae"] == pytest.approx(0.02, **close)


def test_deployed_file_has_the_same_errors(model, shifted_file, deployed):
    compiled = deployed("allegro", type_names=("Cu", "Au"), r_max=3.5)
    frames = read_frames(shifted_file)
    eager, fast = (evaluate_file(path, frames).errors for path in (model, compiled))
    assert fast.keys() == eager.keys()
    for name, value in eager.items():
        assert fast[name] == pytest.approx(value, abs=1e-8)


def test_command_writes_predictions_plots_and_json(model, shifted_file, tmp_path, capsys):
    arguments = ["evaluate", str(model), str(shifted_file), "-o", str(tmp_path / "out"), "--json"]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["structures"] == 6
    assert printed["errors"] == json.loads((tmp_path / "out" / "errors.json").read_text())
    assert (tmp_path / "out" / "parity.png").read_bytes()[:4] == b"\x89PNG"
    for atoms in ase.io.read(tmp_path / "out" / "predictions.xyz", ":"):
        assert atoms.info["kan_energy"] - atoms.get_potential_energy() == pytest.approx(0.8)
        copper = atoms.symbols == "Cu"
        shift = atoms.arrays["kan_forces"] - atoms.get_forces()
        np.testing.assert_allclose(shift[copper], 0.1, atol=1e-6)
        assert np.asarray(atoms.info["kan_stress"]).size == 9


def test_second_evaluation_overwrites_nothing_unasked(model, shifted_file, tmp_path, capsys):
    (tmp_path / "parity.png").write_text("mine")
    arguments = ["evaluate", str(model), str(shifted_file), "-o", str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "existing file" in error and "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["parity.png"]
    assert (tmp_path / "parity.png").read_text() == "mine"


def test_structures_of_other_elements_are_refused(model, ag_frames):
    with pytest.raises(KanMdError, match="got Ag; allowed: Cu, Au"):
        evaluate_file(model, ag_frames)


def test_structures_without_labels_are_refused(model, alloy_frames):
    with pytest.raises(KanMdError, match="data without energy, forces, stress"):
        evaluate_file(model, [atoms.copy() for atoms in alloy_frames])


def test_table_names_units(model, shifted_file, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", str(model), str(shifted_file)])
    table = capsys.readouterr().out
    for text in ("energy (meV/atom)", "energy per structure (meV)", "forces Cu (meV/Å)", "stress"):
        assert text in table


@pytest.fixture
def odd_file(model, shifted_file, tmp_path):
    """Groups with other errors, missing labels, a molecule with a stress, isolated atoms."""
    frames = ase.io.read(shifted_file, ":")
    for index, atoms in enumerate(frames):
        atoms.info["config_type"] = "far" if index < 2 else "near"
    frames[0].calc.results["energy"] += 0.8 - 3.0  # 3 eV off
    frames[1].calc.results["energy"] = np.nan
    frames[2].calc.results["forces"][0] = np.nan
    frames[3].info["config_forces_weight"] = 0.0
    frames[3].calc.results["forces"] += 99.0
    del frames[4].calc.results["stress"]
    molecule = frames[5].copy()
    molecule.set_cell(None)
    molecule.pbc = False
    molecule.calc = KANCalculator(model)
    energy = molecule.get_potential_energy()
    molecule.calc = SinglePointCalculator(molecule, energy=energy, stress=np.zeros(6))
    molecule.info["config_type"] = "molecule"
    alone = ase.Atoms("Cu", info={"config_type": "IsolatedAtom"})
    alone.calc = SinglePointCalculator(alone, energy=77.0)
    ase.io.write(tmp_path / "odd.xyz", [*frames, molecule, alone])
    return tmp_path / "odd.xyz"


def test_errors_are_of_the_labels_that_are_there(model, odd_file):
    result = evaluate_file(model, read_frames(odd_file))
    errors, groups = result.errors, result.by_config_type
    assert result.counts == {"all": 7, "near": 4, "far": 2, "molecule": 1}
    assert list(groups) == ["near", "far", "molecule"]
    close = {"abs": 1e-6}
    assert groups["far"]["energy_per_structure_mae"] == pytest.approx(3.0, **close)
    assert groups["near"]["energy_per_structure_mae"] == pytest.approx(0.8, **close)
    assert groups["molecule"] == pytest.approx(dict.fromkeys(groups["molecule"], 0.0), **close)
    assert errors["energy_per_structure_mae"] == pytest.approx((3.0 + 4 * 0.8) / 6, **close)
    assert errors["forces_Cu_mae"] == pytest.approx(0.1, **close)
    assert errors["forces_Au_rmse"] == pytest.approx(0.3, **close)
    assert errors["stress_mae"] == pytest.approx(0.02, **close)
    assert "stress_mae" not in groups["molecule"] and "forces_mae" not in groups["molecule"]
    ((symbol, label, prediction),) = result.isolated
    assert (symbol, label) == ("Cu", 77.0)
    alone = ase.Atoms("Cu")
    alone.calc = KANCalculator(model)
    assert prediction == pytest.approx(alone.get_potential_energy())


def test_the_command_shows_groups_and_what_it_left_out(model, odd_file, tmp_path, capsys):
    arguments = ["evaluate", str(model), str(odd_file)]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "-o", str(tmp_path / "out"), "--json"])
    assert end.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["structures"] == 7
    far = printed["by_config_type"]["far"]
    assert far["structures"] == 2
    assert far["errors"]["energy_per_structure_mae"] == pytest.approx(3.0, abs=1e-6)
    assert printed["isolated_atoms"][0]["element"] == "Cu"
    written = json.loads((tmp_path / "out" / "errors.json").read_text())
    assert written["by_config_type"] == printed["by_config_type"]
    assert written["energy_mae"] == printed["errors"]["energy_mae"]
    assert len(ase.io.read(tmp_path / "out" / "predictions.xyz", ":")) == 8
    with pytest.raises(SystemExit):
        main(arguments)
    table = capsys.readouterr().out
    for text in ("7 structures", "by config_type", "isolated Cu, not in the errors"):
        assert text in table
    rows = {line.split()[1]: line for line in table.splitlines() if line.startswith("│")}
    assert rows["near"].split()[3] == "4" and rows["far"].split()[3] == "2"
    assert rows["molecule"].count("–") == 2  # neither forces nor a stress
    assert "stress left out of 1 structure: no periodic cell with a volume" in table
    assert "energy left out of 1 structure: NaN or none (first odd.xyz, frame 1)" in table


def test_a_file_of_isolated_atoms_alone_is_evaluated(model):
    atoms = ase.Atoms("Cu")
    atoms.calc = KANCalculator(model)
    energy = atoms.get_potential_energy()
    atoms.calc = SinglePointCalculator(atoms, energy=energy - 1.5)
    errors = evaluate_file(model, [atoms]).errors
    assert errors["energy_mae"] == pytest.approx(1.5)


def test_isolated_atoms_of_other_elements_are_passed_over(model, shifted_file):
    xenon = ase.Atoms("Xe")
    xenon.calc = SinglePointCalculator(xenon, energy=-1.0)
    frames = read_frames(shifted_file)
    result = evaluate_file(model, [xenon, *frames])
    assert result.errors == evaluate_file(model, frames).errors
    assert result.isolated == [("Xe", -1.0, None)]


def test_stress_is_that_of_a_cell_with_a_volume(model, alloy_frames):
    slab = alloy_frames[0].copy()
    slab.pbc = (True, True, False)
    flat = slab.copy()
    flat.set_cell([*slab.cell.array[:2], slab.cell.array[:2].sum(0)], scale_atoms=False)
    for atoms, defined in ((slab, True), (flat, False)):
        atoms.calc = KANCalculator(model)
        atoms.get_forces()
        assert ("stress" in atoms.calc.results) == defined
