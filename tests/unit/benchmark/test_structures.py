"""Structures and the data files LAMMPS reads them from."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from kan_md.benchmark.structures import diamond, elements_of, read_structure, silver, write_data
from kan_md.errors import KanMdError


def test_the_default_is_the_papers_cell():
    atoms = silver()
    assert len(atoms) == 71
    assert atoms.pbc.all()
    distances = atoms.get_all_distances(mic=True)
    nearest = np.sort(distances + 100 * np.eye(71), axis=1)
    shell = (nearest < 1.01 * 4.09 / np.sqrt(2)).sum(axis=1)
    assert sorted(set(shell)) == [11, 12]  # twelve atoms have lost one neighbour to the vacancy
    assert (shell == 11).sum() == 12


@pytest.mark.parametrize(("repeats", "count"), [((6, 6, 6), 863), ((10, 10, 10), 3999)])
def test_larger_cells_keep_the_vacancy(repeats, count):
    assert len(silver(repeats)) == count


def test_data_file_keeps_distances_types_and_masses_of_a_skewed_cell(tmp_path):
    atoms = bulk("NaCl", "rocksalt", a=5.64).repeat((2, 1, 1))
    atoms.set_cell(atoms.cell[:] @ np.array([[1, 0.1, 0], [0, 1, 0.05], [0.02, 0, 1]]), True)
    write_data(tmp_path / "x.data", atoms, ["Cl", "Na"])
    back = ase.io.read(tmp_path / "x.data", format="lammps-data", atom_style="atomic")
    assert back.arrays["type"].tolist() == [2, 1, 2, 1]
    assert back.get_volume() == pytest.approx(atoms.get_volume())
    np.testing.assert_allclose(
        back.get_all_distances(mic=True), atoms.get_all_distances(mic=True), atol=1e-10
    )
    assert back.get_masses() == pytest.approx([22.98976928, 35.45, 22.98976928, 35.45])


def test_elements_come_in_the_order_of_the_model():
    assert elements_of(Atoms("OHO"), ["H", "C", "O"], label="m") == ["H", "O"]


def test_an_element_that_the_model_does_not_know_is_named():
    with pytest.raises(KanMdError, match=r"type of my model, got C; allowed: Ag"):
        elements_of(diamond(), ["Ag"], label="my model")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "must exist"), ("no structure", "readable by ASE"), ("1\n\nAg 0 0 0\n", "a volume")],
)
def test_unusable_structure_files_are_refused(tmp_path, content, message):
    path = tmp_path / "a.xyz"
    if content is not None:
        path.write_text(content)
    with pytest.raises(KanMdError, match=message):
        read_structure(path)
