"""The demo set is physics, not noise: labels agree with each other and with another EAM code."""

import json

import ase.io
import numpy as np
import pytest
from ase.calculators.eam import EAM

from kan_md.cli.main import main
from kan_md.data.ag_vacancy import ag_vacancy_structure, make_ag_vacancy, silver_potential
from kan_md.data.write import write_frames
from kan_md.errors import KanMdError


@pytest.fixture(scope="module")
def reference():
    """ASE's reading of the same table; it interpolates differently, hence per-cent tolerances."""
    return EAM(potential=str(silver_potential()))


def test_structure_is_the_71_atom_benchmark_cell():
    atoms = ag_vacancy_structure()
    assert len(atoms) == 71
    assert atoms.get_volume() == pytest.approx(72 * 4.09**3 / 4)


def test_forces_agree_with_another_eam_code(ag_frames, reference):
    atoms = ag_frames[-1].copy()
    atoms.calc = reference
    expected = ag_frames[-1].get_forces()
    assert np.abs(atoms.get_forces() - expected).max() < 0.01 * np.abs(expected).max()


def test_stress_is_the_strain_derivative_of_the_energy(ag_frames, reference):
    frame, step = ag_frames[-1], 1e-4
    voigt = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    for label, (row, column) in zip(frame.get_stress(), voigt, strict=True):
        energies = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[row, column] += sign * step / 2
            strain[column, row] += sign * step / 2
            atoms = frame.copy()
            atoms.set_cell(frame.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
            atoms.calc = reference
            energies.append(atoms.get_potential_energy())
        numeric = (energies[0] - energies[1]) / (2 * step) / frame.get_volume()
        assert label == pytest.approx(numeric, abs=1e-3)


def test_forces_grow_with_temperature_as_equipartition_says(ag_frames):
    square = {
        temperature: np.mean(
            [
                np.square(atoms.get_forces()).mean()
                for atoms in ag_frames
                if atoms.info["temperature"] == temperature
            ]
        )
        for temperature in (300.0, 900.0)
    }
    # Harmonic crystal: <F²> is proportional to T. Langevin noise in the labels would make it 10x.
    assert 2.0 < square[900.0] / square[300.0] < 4.5
    assert np.sqrt(square[300.0]) < 0.6


def test_same_seed_same_structures_other_seed_other_structures(ag_frames):
    again, other = (make_ag_vacancy(8, seed, temperatures=(300.0, 900.0)) for seed in (1, 2))
    for first, second, third in zip(ag_frames, again, other, strict=True):
        np.testing.assert_array_equal(first.positions, second.positions)
        assert np.abs(first.positions - third.positions).max() > 1e-3


def test_command_writes_readable_labels(tmp_path, capsys):
    path = tmp_path / "ag.xyz"
    with pytest.raises(SystemExit) as end:
        main(["data", "ag-vacancy", str(path), "--frames", "2", "--temperature", "300", "--json"])
    assert end.value.code == 0
    assert json.loads(capsys.readouterr().out) == {"output": str(path), "frames": 2, "atoms": 71}
    frames = ase.io.read(path, ":")
    assert [len(atoms) for atoms in frames] == [71, 71]
    assert {"energy", "forces", "stress"} <= frames[0].calc.results.keys()


def test_existing_file_is_kept(tmp_path, ag_frames):
    path = tmp_path / "ag.xyz"
    path.write_text("mine")
    with pytest.raises(KanMdError, match="existing file"):
        write_frames(ag_frames, path)
    assert path.read_text() == "mine"
    write_frames(ag_frames, path, overwrite=True)
    assert len(ase.io.read(path, ":")) == len(ag_frames)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"frames": 0}, "number of frames, got 0"),
        ({"seed": -1}, "seed, got -1"),
        ({"temperatures": (300.0, 0.0)}, "temperatures"),
        ({"temperatures": (300.0, float("nan"))}, "temperatures"),
    ],
)
def test_impossible_requests_are_one_line(arguments, found):
    with pytest.raises(KanMdError, match=found) as error:
        make_ag_vacancy(**arguments)
    assert "\n" not in str(error.value)


def test_missing_folder_is_said(tmp_path):
    with pytest.raises(KanMdError, match="missing or not writable"):
        write_frames([], tmp_path / "no" / "ag.xyz")
    assert not list(tmp_path.iterdir())
