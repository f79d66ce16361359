"""Labels arrive with ASE's meaning whatever the file calls them; wrong data are refused."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from nequip.data import AtomicDataDict
from nequip.data.ase import from_ase
from nequip.data.dataset import NequIPLMDBDataset

from kan_md.data import read_frames
from kan_md.data.checks import check_elements, check_labels, check_structures
from kan_md.data.dataset import FramesDataset
from kan_md.errors import KanMdError
from kan_md.tasks.targets import ENERGY, FORCES, POTENTIAL_TARGETS, STRESS


def assert_same(read, frames, tolerance=1e-7):
    assert len(read) == len(frames)
    for one, other in zip(read, frames, strict=True):
        assert one.get_potential_energy() == pytest.approx(other.get_potential_energy())
        np.testing.assert_allclose(one.get_forces(), other.get_forces(), atol=tolerance)
        np.testing.assert_allclose(one.get_stress(), other.get_stress(), atol=tolerance)
        np.testing.assert_allclose(one.positions, other.positions, atol=tolerance)


def test_extended_xyz_keeps_labels(tmp_path, alloy_frames):
    ase.io.write(tmp_path / "a.xyz", alloy_frames)
    assert_same(read_frames([tmp_path / "a.xyz"]), alloy_frames)


def test_other_formats_of_ase_are_read(tmp_path, alloy_frames):
    ase.io.write(tmp_path / "a.traj", alloy_frames)
    assert_same(read_frames(tmp_path / "a.traj"), alloy_frames)


def test_lmdb_of_nequip_is_read(tmp_path, alloy_frames):
    path = tmp_path / "a.lmdb"
    NequIPLMDBDataset.save_from_iterator(
        str(path), (from_ase(atoms) for atoms in alloy_frames), map_size=2**24
    )
    assert_same(read_frames(path), alloy_frames, tolerance=1e-6)


def test_lmdb_cannot_run_code(tmp_path):
    import os
    import pickle

    import lmdb

    class Attack:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "broken_in"),))

    path = tmp_path / "a.lmdb"
    with (
        lmdb.open(str(path), subdir=False, map_size=2**20) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"0", pickle.dumps({AtomicDataDict.POSITIONS_KEY: Attack()}))
    with pytest.raises(KanMdError, match="is not a tensor"):
        read_frames(path)
    assert not (tmp_path / "broken_in").exists()


def test_labels_under_other_names(tmp_path, alloy_frames):
    renamed = []
    for atoms in alloy_frames:
        copy = atoms.copy()
        copy.info["REF_energy"] = atoms.get_potential_energy()
        copy.arrays["REF_forces"] = atoms.get_forces()
        # GAP's convention: virial = -volume * stress, 9 numbers.
        copy.info["virial"] = -atoms.get_volume() * atoms.get_stress(voigt=False).ravel()
        renamed.append(copy)
    ase.io.write(tmp_path / "a.xyz", renamed)
    read = read_frames(tmp_path / "a.xyz", {"energy": "REF_energy", "forces": "REF_forces"})
    assert_same(read, alloy_frames)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("missing.xyz", None, "not found"),
        ("empty.xyz", "", "no structures"),
        ("text.xyz", "this is\nno structure\n", "cannot be read"),
        ("truncated.xyz", "3\n\nAg 0 0 0\n", "cannot be read"),
        ("text.lmdb", "nonsense", "not nequip's LMDB"),
    ],
)
def test_unreadable_file_is_one_line(tmp_path, name, text, said):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(KanMdError, match=said) as error:
        read_frames(path)
    assert "\n" not in str(error.value)


def labelled(**changes):
    atoms = Atoms("Ag2", [(0, 0, 0), (2.5, 0, 0)])
    labels = {"energy": 1.0, "forces": np.zeros((2, 3)), **changes}
    atoms.calc = SinglePointCalculator(
        atoms, **{name: value for name, value in labels.items() if value is not None}
    )
    return atoms


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([labelled(energy=None)], "data without energy"),
        ([labelled(forces=None)] * 2, r"data without forces.*or drop forces"),
        ([labelled(forces=np.full((2, 3), np.inf))], "has an infinite forces"),
    ],
)
def test_labels_that_nobody_has_are_refused(frames, said):
    with pytest.raises(KanMdError, match=said):
        check_labels(frames, [ENERGY, FORCES], remedy=" or drop {}")


def test_some_structures_may_go_without_a_label():
    check_labels([labelled(), labelled(forces=None), labelled(energy=None)], [ENERGY, FORCES])


def test_missing_stress_may_be_forbidden(alloy_frames):
    frames = [*alloy_frames, labelled()]
    check_labels(frames, [STRESS])
    with pytest.raises(KanMdError, match=r"mixed labels: stress, got 1 of 7.*mask"):
        check_labels(frames, [STRESS], complete={"stress"})


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([], "empty"),
        ([Atoms()], "no atoms"),
        ([Atoms("X")], "unknown element"),
        ([Atoms("Ag", [(np.nan, 0, 0)])], "not finite"),
        ([Atoms("Ag", pbc=True)], "without a cell"),
        ([Atoms("Ag", cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]], pbc=True)], "in one plane"),
    ],
)
def test_things_that_are_no_structures_are_refused(frames, said):
    with pytest.raises(KanMdError, match=said):
        check_structures(frames, "train")


def test_unknown_element_is_named(alloy_frames):
    with pytest.raises(KanMdError, match="got Au; allowed: Cu"):
        check_elements(alloy_frames, ["Cu"])


def test_overlapping_atoms_are_refused():
    atoms = Atoms("Ag2", [(0, 0, 0), (0.05, 0, 0)])
    with pytest.raises(
        KanMdError, match=r"got numbers 0 and 1 at a distance of 0\.05 Å; allowed: 0\.2 Å"
    ):
        FramesDataset([atoms], 3.0, type_names=["Ag"], targets=[])


def test_clusters_and_crystals_share_a_batch(alloy_frames):
    cluster = Atoms("CuAu", [(0, 0, 0), (2.5, 0, 0)])
    cluster.calc = SinglePointCalculator(cluster, energy=0.0, forces=np.zeros((2, 3)))
    dataset = FramesDataset(
        [alloy_frames[0], cluster], 3.0, type_names=["Cu", "Au"], targets=POTENTIAL_TARGETS
    )
    batch = AtomicDataDict.batched_from_list(dataset[[0, 1]])
    assert batch[AtomicDataDict.STRESS_KEY][1].isnan().all()
    assert batch[AtomicDataDict.STRESS_KEY][0].isfinite().all()
    assert batch[AtomicDataDict.CELL_KEY].shape == (2, 3, 3)
