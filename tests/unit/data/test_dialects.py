"""Data files as people have them are read with ASE's meaning, or refused in one line by frame."""

import bz2
import gzip
import json
import lzma

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import voigt_6_to_full_3x3_stress

from kan_md.data.label_report import LabelReport
from kan_md.data.labels import check_keys
from kan_md.data.numbers import as_numbers
from kan_md.data.reading import read_frames
from kan_md.errors import KanMdError
from kan_md.tasks.targets import label_weight

VOIGT = np.array([0.01, -0.02, 0.03, 0.004, -0.005, 0.006])
FULL = voigt_6_to_full_3x3_stress(VOIGT)
VOLUME = 27.0


def flat(numbers):
    return '"' + " ".join(f"{number:.6f}" for number in np.ravel(numbers)) + '"'


def write(path, comment, *, frames=1, properties="species:S:1:pos:R:3:forces:R:3", row=None):
    """Frames of one hydrogen atom in a cube of 3 Å."""
    row = row or "H 0.0 0.0 0.5 0.1 0.2 -0.3"
    lattice = 'Lattice="3 0 0 0 3 0 0 0 3" pbc="T T T"'
    path.write_text(f"1\n{lattice} Properties={properties} {comment}\n{row}\n" * frames)
    return path


@pytest.mark.parametrize(
    "comment",
    [
        f"stress={flat(VOIGT)}",
        f"stress={flat(FULL)}",
        f"stress={flat(FULL.T)}",
        f'stress="{FULL.tolist()}"',
        f'stress="_JSON {FULL.tolist()}"',
        f"stress={{{' '.join(map(str, FULL.ravel()))}}}",
        f"REF_stress={flat(FULL)}",
        f"dft_stress={flat(VOIGT)}",
        f"virial={flat(-VOLUME * FULL)}",
        f"virials={flat(-VOLUME * FULL)}",
        f"REF_virials={flat(-VOLUME * VOIGT)}",
        f"stress=None virials={flat(-VOLUME * FULL)}",
        f"stress={flat(FULL).replace('0.030000', '3.D-02')}",
    ],
)
def test_stress_means_the_same_however_it_is_written(tmp_path, comment):
    (atoms,) = read_frames(write(tmp_path / "a.xyz", f"energy=-1 {comment}"))
    np.testing.assert_allclose(atoms.get_stress(), VOIGT, atol=1e-7)
    assert atoms.get_potential_energy() == -1


@pytest.mark.parametrize(
    "name", ["energy", "Energy", "REF_energy", "dft_energy", "DFT_energy", "free_energy"]
)
def test_energy_is_found_under_the_names_of_others(tmp_path, name):
    report = LabelReport()
    (atoms,) = read_frames(write(tmp_path / "a.xyz", f"{name}=-1.125D+01"), report=report)
    assert atoms.get_potential_energy() == -11.25
    said = [] if name == "energy" else [f"energy is read from {name} (1 structure)"]
    assert report.lines() == said


def test_two_energies_that_differ_are_told(tmp_path):
    report = LabelReport()
    path = write(tmp_path / "a.xyz", "energy=-1 free_energy=-1.1 REF_energy=-2", frames=3)
    assert read_frames(path, report=report)[0].get_potential_energy() == -1
    assert report.lines() == [
        "energy is read from energy; REF_energy differs in 3 structures "
        "(data.keys.energy: REF_energy reads that)"
    ]
    assert read_frames(path, {"energy": "REF_energy"})[0].get_potential_energy() == -2


@pytest.mark.parametrize("name", ["forces", "force", "REF_forces", "DFT_forces"])
def test_forces_are_found_under_the_names_of_others(tmp_path, name):
    (atoms,) = read_frames(
        write(tmp_path / "a.xyz", "", properties=f"species:S:1:pos:R:3:{name}:R:3")
    )
    np.testing.assert_allclose(atoms.get_forces(), [[0.1, 0.2, -0.3]])


def test_fortran_numbers_in_columns_are_numbers(tmp_path):
    row = "H 0.0D+00 1.5d-1 0.5 1.0D+01 -2.D-03 3.5"
    (first, second) = read_frames(write(tmp_path / "a.xyz", "energy=-1D0", frames=2, row=row))
    np.testing.assert_allclose(second.get_forces(), [[10.0, -0.002, 3.5]])
    np.testing.assert_allclose(first.positions, [[0.0, 0.15, 0.5]])


@pytest.mark.parametrize("nothing", ["None", "nan", "NaN", "null", '""', '"n/a"'])
@pytest.mark.parametrize("label", ["energy", "stress", "virial"])
def test_nothing_is_a_missing_label(tmp_path, label, nothing):
    report = LabelReport()
    path = write(tmp_path / "a.xyz", f"{label}={nothing}", frames=2)
    frames = read_frames(path, report=report)
    assert frames[0].calc.results.keys() == {"forces"}
    assert report.lines() == [
        f"{label} left out of 2 structures: NaN or none (first a.xyz, frame 0)"
    ]


def test_forces_that_are_nan_are_missing_and_parts_of_them_stay(tmp_path):
    whole = write(tmp_path / "a.xyz", "energy=1", row="H 0 0 0 nan nan nan")
    part = write(tmp_path / "b.xyz", "energy=1", row="H 0 0 0 nan 1 2")
    assert "forces" not in read_frames(whole)[0].calc.results
    np.testing.assert_equal(read_frames(part)[0].calc.results["forces"], [[np.nan, 1, 2]])


@pytest.mark.parametrize(
    ("comment", "found"),
    [
        (
            'energy="-11.25 eV"',
            "energy of a.xyz, frame 0, got '-11.25 eV'; allowed: a number in eV",
        ),
        ("energy", "energy of a.xyz, frame 0, got True"),
        ("energy=T", "energy of a.xyz, frame 0, got True"),
        ('energy="1 2"', "energy of a.xyz, frame 0, got 2 numbers; allowed: 1"),
        ("energy=inf", "energy of a.xyz, frame 0, got infinity"),
        ('stress="1 2 3"', "stress of a.xyz, frame 0, got 3 numbers; allowed: 6 or 9"),
        ('virial="1 2 3 4"', "virial of a.xyz, frame 0, got 4 numbers"),
        ('stress="in kbar"', "stress of a.xyz, frame 0, got 'in kbar'"),
        ("config_weight=high", "config_weight of a.xyz, frame 0, got 'high'; allowed: a number >="),
        ("config_weight=-1", "config_weight of a.xyz, frame 0, got -1"),
        ("config_weight=nan", "config_weight of a.xyz, frame 0, got nan"),
        ("energy=1 config_energy_weight=-2", "config_energy_weight of a.xyz, frame 0, got -2"),
        ("config_forces_weight=inf", "config_forces_weight of a.xyz, frame 0, got inf"),
    ],
)
def test_what_is_no_label_is_refused_by_frame(tmp_path, comment, found):
    with pytest.raises(KanMdError) as error:
        read_frames(write(tmp_path / "a.xyz", comment))
    assert found in str(error.value)
    assert "\n" not in str(error.value)


def test_other_results_that_are_nothing_do_no_harm(tmp_path):
    path = write(tmp_path / "a.xyz", 'energy=1 dipole=None magmom=none polarization="x y"')
    (atoms,) = read_frames(path)
    assert atoms.calc.results.keys() == {"energy", "forces"}


def test_results_of_other_kinds_stay_with_the_structure(tmp_path):
    atoms = Atoms("OH2", positions=[[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    charges = np.arange(27.0).reshape(3, 3, 3)
    atoms.calc = SinglePointCalculator(
        atoms, energy=1.0, dipole=[1, 2, 3], born_effective_charges=charges, magmoms=[0, 1, 2]
    )
    ase.io.write(tmp_path / "a.traj", atoms)
    (read,) = read_frames(tmp_path / "a.traj")
    np.testing.assert_equal(read.info["dipole"], [1, 2, 3])
    np.testing.assert_equal(read.arrays["born_effective_charges"], charges.reshape(3, 9))
    ase.io.write(tmp_path / "a.xyz", read)
    (again,) = read_frames(tmp_path / "a.xyz")
    np.testing.assert_equal(again.arrays["born_effective_charges"], charges.reshape(3, 9))


def test_weights_of_single_labels_multiply_that_of_the_frame(tmp_path):
    path = write(
        tmp_path / "a.xyz",
        f"energy=1 virial={flat(FULL)} config_weight=3 config_energy_weight=0.5 "
        "config_virials_weight=2D0",
    )
    (atoms,) = read_frames(path)
    weights = [label_weight(atoms, name) for name in ("energy", "forces", "stress")]
    assert weights == [1.5, 3, 6]
    assert label_weight(atoms, "bec") == 3


def test_weight_of_the_virial_is_none_of_the_stress(tmp_path):
    path = write(tmp_path / "a.xyz", f"stress={flat(FULL)} config_virials_weight=0")
    np.testing.assert_allclose(read_frames(path)[0].get_stress(), VOIGT, atol=1e-6)


@pytest.mark.parametrize("comment", ["config_energy_weight=0", "config_weight=0"])
def test_a_placeholder_of_weight_0_is_no_label(tmp_path, comment):
    report = LabelReport()
    path = write(tmp_path / "a.xyz", f"energy=-999 {comment}")
    (atoms,) = read_frames(path, report=report)
    assert atoms.calc is None or "energy" not in atoms.calc.results
    (line,) = report.lines()
    assert line.startswith("energy")
    assert line.endswith("left out of 1 structure: weight 0 (first a.xyz, frame 0)")
    assert (atoms.calc is None) == (comment == "config_weight=0")


@pytest.mark.parametrize(
    ("cell", "pbc", "counts"),
    [
        ([3, 3, 3], (True, True, True), True),
        ([3, 3, 30], (True, True, False), True),  # a slab in a whole cell, as ASE has it
        ([3, 30, 30], (True, False, False), True),
        ([3, 3, 0], (True, True, False), False),
        ([[3, 0, 0], [0, 3, 0], [3, 3, 0]], (True, True, False), False),  # in one plane
        ([9, 9, 9], (False, False, False), False),  # a molecule in its box
        (None, (False, False, False), False),
    ],
)
@pytest.mark.parametrize("name", ["stress", "virial"])
def test_stress_needs_a_periodic_cell_with_a_volume(tmp_path, name, cell, pbc, counts):
    atoms = Atoms("H", cell=cell, pbc=pbc)
    atoms.info |= {"energy": 1.0, name: np.zeros((3, 3))}
    ase.io.write(tmp_path / "a.xyz", atoms)
    report = LabelReport()
    (read,) = read_frames(tmp_path / "a.xyz", report=report)
    assert ("stress" in read.calc.results) == counts
    said = "stress left out of 1 structure: no periodic cell with a volume (first a.xyz, frame 0)"
    assert report.lines() == ([] if counts else [said])


@pytest.mark.parametrize("ending", ["xyz.gz", "xyz.bz2", "xyz.xz"])
@pytest.mark.parametrize("damage", ["no", "half", "noise"])
def test_compressed_files_are_read_or_refused(tmp_path, ending, damage):
    content = write(tmp_path / "a.xyz", "energy=1", frames=200).read_bytes()
    pack = {"xyz.gz": gzip.compress, "xyz.bz2": bz2.compress, "xyz.xz": lzma.compress}[ending]
    packed = bytearray(pack(content))
    path = tmp_path / f"b.{ending}"
    middle = len(packed) // 2
    if damage == "half":
        packed = packed[:middle]
    elif damage == "noise":
        packed[middle : middle + 8] = b"\x00\xff" * 4
    path.write_bytes(packed)
    if damage == "no":
        assert len(read_frames(path)) == 200
        return
    with pytest.raises(KanMdError, match="cannot be read") as error:
        read_frames(path)
    assert "\n" not in str(error.value)


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "OUTCAR").write_text(" vasp.6.4.2\n")
    with pytest.raises(KanMdError, match=r"got a folder with OUTCAR.*name a file in it, e\.g\."):
        read_frames(tmp_path)
    with pytest.raises(KanMdError, match="cannot be read"):  # of a job that died
        read_frames(tmp_path / "OUTCAR")


def test_the_message_says_how_far_a_file_could_be_read(tmp_path):
    path = write(tmp_path / "a.xyz", "energy=1", frames=3)
    path.write_text(path.read_text() + "2\nenergy=1\nH 0 0 0\n")
    with pytest.raises(KanMdError, match="cannot be read after 3 structures"):
        read_frames(path)


@pytest.mark.parametrize("ending", ["db", "json", "traj", "extxyz"])
def test_databases_and_trajectories_of_ase_are_read(tmp_path, ending, alloy_frames):
    ase.io.write(tmp_path / f"a.{ending}", alloy_frames[:2])
    for read, atoms in zip(read_frames(tmp_path / f"a.{ending}"), alloy_frames, strict=False):
        assert read.get_potential_energy() == pytest.approx(atoms.get_potential_energy())
        np.testing.assert_allclose(read.get_forces(), atoms.get_forces(), atol=1e-7)
        np.testing.assert_allclose(read.get_stress(), atoms.get_stress(), atol=1e-7)


def test_labels_beside_a_structure_in_a_database_are_read(tmp_path):
    from ase.db import connect

    with connect(tmp_path / "a.db") as database:
        database.write(
            Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.7]]),
            key_value_pairs={"REF_energy": -3.0, "config_weight": 2},
            data={"forces": [[0, 0, 1.0], [0, 0, -1.0]]},
        )
    (atoms,) = read_frames(tmp_path / "a.db")
    assert atoms.get_potential_energy() == -3
    np.testing.assert_equal(atoms.get_forces(), [[0, 0, 1], [0, 0, -1]])
    assert label_weight(atoms, "energy") == 2


def test_npz_of_sgdml_is_read_and_its_units_are_minded(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"z": [8, 1, 1], "R": rng.normal(size=(4, 3, 3)), "E": np.arange(4.0)[:, None],
              "F": rng.normal(size=(4, 3, 3)), "e_unit": "eV", "r_unit": "Ang"}  # fmt: skip
    np.savez(tmp_path / "a.npz", **arrays)
    frames = read_frames(tmp_path / "a.npz")
    assert [atoms.get_potential_energy() for atoms in frames] == [0, 1, 2, 3]
    np.testing.assert_allclose(frames[2].get_forces(), arrays["F"][2])
    np.testing.assert_allclose(frames[3].positions, arrays["R"][3])
    assert str(frames[0].symbols) == "OH2"
    np.savez(tmp_path / "b.npz", **arrays | {"e_unit": "kcal/mol"})
    with pytest.raises(KanMdError, match=r"e_unit of .*, got kcal/mol; allowed: eV"):
        read_frames(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", R=arrays["R"])
    with pytest.raises(KanMdError, match=r"without numbers, got R; allowed: z or numbers"):
        read_frames(tmp_path / "c.npz")
    (tmp_path / "d.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:300])
    with pytest.raises(KanMdError, match="cannot be read"):
        read_frames(tmp_path / "d.npz")


def test_npz_of_crystals_has_cells(tmp_path):
    np.savez(
        tmp_path / "a.npz", numbers=[1], positions=np.zeros((2, 1, 3)), energy=[1.0, 2.0],
        cell=3 * np.eye(3), stress=np.stack([FULL, 2 * FULL]),
    )  # fmt: skip
    second = read_frames(tmp_path / "a.npz")[1]
    assert second.pbc.all() and second.cell.volume == pytest.approx(VOLUME)
    np.testing.assert_allclose(second.get_stress(), 2 * VOIGT)


def test_a_name_that_nobody_has_is_refused_with_what_is_there(tmp_path):
    report = LabelReport()
    read_frames(write(tmp_path / "a.xyz", "energy=1 U=2"), {"energy": "E"}, report=report)
    with pytest.raises(KanMdError, match="got E, which no structure has; allowed: U, energy, for"):
        check_keys(report, {"energy": "E"})
    check_keys(report, {"energy": "energy", "stress": "stress", "forces": "forces"})
    with pytest.raises(KanMdError, match="name of weight, got my_wieght"):
        check_keys(report, {"weight": "my_wieght"})


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        (1, [1]),
        ("1.0D+01 -2d-1", [10, -0.2]),
        ([[1, 2], [3, 4]], [1, 2, 3, 4]),
        (json.dumps([[1.5, None], [3, 4]]).replace("null", "None"), [1.5, np.nan, 3, 4]),
        (np.array(["1", "2"]), [1, 2]),
        (None, [np.nan]),
        ([], [np.nan]),
        (b"7", [7]),
    ],
)
def test_numbers_are_read_as_they_are_written(value, numbers):
    np.testing.assert_equal(as_numbers(value), numbers)


@pytest.mark.parametrize("value", ["3 eV", True, "dead", {"a": 1}, 1j])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match=r"could not convert|is no number"):
        as_numbers(value)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("Lattice=", "lattice=").replace("pbc=", "PBC="),
        lambda text: text.replace("Properties=", "properties=").replace("Lattice=", "LATTICE="),
        lambda text: text.replace("energy=1", 'energy=1 author="Å"'),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_frame_is_the_same_however_other_programs_write_it(tmp_path, change, encoding):
    plain = write(tmp_path / "a.xyz", f"energy=1 stress={flat(FULL)}", frames=2)
    text = change(plain.read_text())
    other = tmp_path / "b.xyz"
    other.write_bytes(text.encode("utf-8" if text.startswith("\ufeff") else encoding))
    for one, two in zip(read_frames(plain), read_frames(other), strict=True):
        assert (one.numbers == two.numbers).all() and (one.pbc == two.pbc).all()
        np.testing.assert_array_equal(one.positions, two.positions)
        np.testing.assert_array_equal(one.cell, two.cell)
        for name in ("energy", "forces", "stress"):
            np.testing.assert_array_equal(one.calc.results[name], two.calc.results[name])


def test_a_cell_under_another_name_is_refused(tmp_path):
    path = write(tmp_path / "a.xyz", "energy=1")
    path.write_text(path.read_text().replace("Lattice=", "cell="))
    with pytest.raises(KanMdError, match="its cell must be called Lattice"):
        read_frames(path)


def test_an_element_that_is_none_is_named(tmp_path):
    path = write(tmp_path / "a.xyz", "energy=1", row="Cu1 0 0 0 0 0 0")
    with pytest.raises(KanMdError, match="no element is called 'Cu1'"):
        read_frames(path)


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (-VOLUME, []),
        (VOLUME, ["virial has the other sign in 2 structures"]),
        (-VOLUME * 160.2, ["virial differs in 2 structures"]),
    ],
)
def test_a_virial_beside_a_stress_has_to_be_its_own(tmp_path, factor, said):
    report = LabelReport()
    path = write(
        tmp_path / "a.xyz", f"energy=1 stress={flat(FULL)} virial={flat(factor * FULL)}", frames=2
    )
    (first, _) = read_frames(path, report=report)
    np.testing.assert_allclose(first.get_stress(), VOIGT, atol=1e-6)
    assert len(report.lines()) == len(said)
    assert all(words in line for words, line in zip(said, report.lines(), strict=True))


def test_a_virial_that_is_none_does_no_harm_beside_a_stress(tmp_path):
    report = LabelReport()
    path = write(tmp_path / "a.xyz", f'energy=1 stress={flat(FULL)} virial="in kbar"')
    np.testing.assert_allclose(read_frames(path, report=report)[0].get_stress(), VOIGT, atol=1e-6)
    assert report.lines() == []


@pytest.mark.parametrize("names", [("z", "R", "E", "F"), ("nuclear_charges", "coords", "energies")])
def test_energies_of_md17_need_their_unit(tmp_path, names):
    rng = np.random.default_rng(0)
    values = [np.array([8, 1, 1]), rng.normal(size=(2, 3, 3)), np.arange(2.0), np.zeros((2, 3, 3))]
    arrays = dict(zip(names, values, strict=False))
    if "energies" in arrays:
        arrays |= {"forces": values[3], "old_energies": values[2]}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(KanMdError, match="MD17 and rMD17 are in kcal/mol; allowed: e_unit"):
        read_frames(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **arrays, e_unit="eV")
    assert [atoms.get_potential_energy() for atoms in read_frames(tmp_path / "b.npz")] == [0, 1]


def test_a_pattern_names_files_in_their_order(tmp_path):
    for name in ("b", "a", "[c]"):
        write(tmp_path / f"{name}.xyz", f"energy={ord(name[0])}")
    energies = [atoms.get_potential_energy() for atoms in read_frames(tmp_path / "?.xyz")]
    assert energies == [97, 98]
    assert len(read_frames(tmp_path / "[c].xyz")) == 1  # a file of that name is itself
    with pytest.raises(KanMdError, match="got none of that pattern; check the path"):
        read_frames(tmp_path / "*.extxyz")


@pytest.mark.parametrize("number", ["99999999999", "-2"])
def test_a_number_that_is_none_of_atoms_is_refused_at_once(tmp_path, number):
    (tmp_path / "a.xyz").write_text(f"{number}\nenergy=1\nH 0 0 0\n")
    with pytest.raises(KanMdError, match=f"a structure of {number} atoms"):
        read_frames(tmp_path / "a.xyz")
