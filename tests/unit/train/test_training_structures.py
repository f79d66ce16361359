"""What training takes from data files, what it leaves out, and that it says so."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from kan_md import KANCalculator
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint
from kan_md.train.preparation import prepare_data
from kan_md.train.run import train
from kan_md.train.structures import note_lines

E0 = {"Cu": 3.51, "Au": 3.80}


def isolated(symbol, energy, **labels):
    atoms = Atoms(symbol, info={"config_type": "IsolatedAtom"})
    atoms.calc = SinglePointCalculator(atoms, energy=energy, **labels)
    return atoms


def changed(frames, **results):
    """Copies of frames with some labels replaced or, where None, removed."""
    copies = []
    for atoms in frames:
        copy = atoms.copy()
        labels = {**atoms.calc.results, **results}
        copy.calc = SinglePointCalculator(
            copy, **{name: value for name, value in labels.items() if value is not None}
        )
        copies.append(copy)
    return copies


@pytest.fixture
def prepare(tmp_path, make_config, alloy_frames):
    """Write frames and prepare a configuration for them; notes as one text."""

    def run(frames, **changes):
        ase.io.write(tmp_path / "data.xyz", frames)
        changes = {name.replace("__", "."): value for name, value in changes.items()}
        data = prepare_data(make_config({"data.train": str(tmp_path / "data.xyz"), **changes}))
        return data, "\n".join(note_lines(data.notes))

    return run


ISOLATED = [isolated(symbol, energy) for symbol, energy in E0.items()]


@pytest.mark.parametrize("labels", [{}, {"forces": np.zeros((1, 3))}])
def test_isolated_atoms_are_references_and_no_structures(prepare, alloy_frames, labels):
    atoms = [isolated(symbol, energy, **labels) for symbol, energy in E0.items()]
    data, notes = prepare([*atoms, *alloy_frames])
    assert data.statistics["reference_energies"] == E0
    assert set(data.statistics["reference_sources"].values()) == {"isolated atom"}
    assert sum(map(len, data.frames.values())) == len(alloy_frames)
    assert min(len(atoms) for frames in data.frames.values() for atoms in frames) > 1
    assert "2 of Cu, Au: reference energies, not in the loss" in notes
    assert "Cu 3.510, Au 3.800 eV (isolated atom)" in notes


def test_odd_isolated_atoms_are_told(prepare, alloy_frames):
    xenon, bare, crowded = isolated("Xe", -1.0), isolated("Au", None), isolated("Cu", 3.51)
    crowded.set_cell([2.5, 2.5, 2.5])
    crowded.pbc = True
    crowded.calc.atoms = crowded.copy()
    pair = alloy_frames[0].copy()
    pair.calc = alloy_frames[0].calc
    pair.info["config_type"] = "IsolatedAtom"
    data, notes = prepare([xenon, bare, crowded, pair, *alloy_frames[1:]])
    assert data.type_names == ["Cu", "Au"]
    assert data.statistics["reference_sources"] == {"Cu": "isolated atom", "Au": "least squares"}
    assert "Xe: in no training structure, not used" in notes
    assert "1 without an energy: no references (first data.xyz, frame 1)" in notes
    assert "data.xyz, frame 2, called an isolated atom, has images within 3.2 Å" in notes
    assert "1 structure of several atoms called so" in notes


@pytest.mark.parametrize(
    ("wanted", "energies", "source"),
    [
        ({"Cu": -1.0, "Au": -2}, {"Cu": -1.0, "Au": -2.0}, "given"),
        ({29: -1.0, "79": -2}, {"Cu": -1.0, "Au": -2.0}, "given"),
        ("zero", {"Cu": 0.0, "Au": 0.0}, "zero"),
        ("IsolatedAtom", E0, "isolated atom"),
    ],
)
def test_references_are_those_that_are_asked_for(prepare, alloy_frames, wanted, energies, source):
    data, notes = prepare([*ISOLATED, *alloy_frames], model__E0s=wanted)
    assert data.statistics["reference_energies"] == energies
    assert data.statistics["reference_sources"] == dict.fromkeys(energies, source)
    listed = ", ".join(f"{name} {energy:.3f}" for name, energy in energies.items())
    assert f"{listed} eV ({source})" in notes


def test_isolated_atoms_may_stay_in_the_loss(prepare, alloy_frames):
    data, notes = prepare([*ISOLATED, *alloy_frames], data__isolated_atoms="train")
    assert sum(map(len, data.frames.values())) == len(alloy_frames) + 2
    assert data.statistics["reference_energies"] == E0
    assert "also in the loss" in notes


def test_one_isolated_atom_leaves_the_other_to_least_squares(prepare, alloy_frames):
    data, notes = prepare([ISOLATED[0], *alloy_frames])
    assert data.statistics["reference_energies"]["Cu"] == E0["Cu"]
    assert data.statistics["reference_sources"] == {"Cu": "isolated atom", "Au": "least squares"}
    assert "not free atoms: fix gcmc needs frames of config_type=IsolatedAtom" in notes
    with pytest.raises(KanMdError, match="got no isolated atom with an energy of Au in data"):
        prepare([ISOLATED[0], *alloy_frames], model__per_type_energy_shifts="isolated")


def test_contradicting_isolated_atoms_are_refused_unless_references_are_given(
    prepare, alloy_frames
):
    frames = [*ISOLATED, isolated("Cu", 2.0), *alloy_frames]
    with pytest.raises(KanMdError, match=r"Cu contradict.*3\.51 eV.*2 eV \(data\.xyz, frame 2\)"):
        prepare(frames)
    _, notes = prepare(frames, model__E0s={29: 3.51, 79: 3.8})
    assert "isolated atoms of data.train (Cu 2.000 eV) are not the references (Cu 3.510)" in notes


def test_isolated_atoms_of_validation_are_no_structures_either(tmp_path, prepare, alloy_frames):
    val = [isolated("Cu", 1.0), *changed(alloy_frames[:2], energy=1.0)]
    val[1].positions += 0.01
    ase.io.write(tmp_path / "val.xyz", val)
    data, notes = prepare([*ISOLATED, *alloy_frames], data__val=str(tmp_path / "val.xyz"))
    assert len(data.frames["val"]) == 2
    assert "isolated atoms of data.val (Cu 1.000 eV) are not the references (Cu 3.510)" in notes
    assert "1 of 2 val structures are in the training set too" in notes


def test_numbers_of_the_split_count_what_was_left_out(prepare, alloy_frames):
    split = {"train": 5, "val": 2, "test": 1}
    data, _ = prepare([*ISOLATED, *alloy_frames], data__split=split)
    assert [len(frames) for frames in data.frames.values()] == [3, 2, 1]
    enough = {"train": 3, "val": 1, "test": 1}
    data, notes = prepare([*ISOLATED, *alloy_frames], data__split=enough)
    assert [len(frames) for frames in data.frames.values()] == [3, 1, 1]
    assert "left out        1 structure that data.split does not ask for" in notes
    with pytest.raises(KanMdError, match="train 6, val 2, test 1; allowed: 8 in all"):
        prepare([*ISOLATED, *alloy_frames], data__split={"train": 6, "val": 2, "test": 1})


def test_references_of_one_composition_are_told(prepare, alloy_frames):
    one = [atoms for atoms in alloy_frames if len(atoms) == 8][:1] or alloy_frames[:1]
    frames = changed(one * 6)
    for index, atoms in enumerate(frames):
        atoms.rattle(0.02, seed=index)
        atoms.calc.atoms = atoms.copy()
    data, notes = prepare(frames)
    energies = data.statistics["reference_energies"]
    assert energies["Cu"] == pytest.approx(energies["Au"])
    assert "the compositions do not determine Cu, Au" in notes


def test_isolated_atoms_of_another_reference_get_a_warning(prepare, alloy_frames):
    far = [isolated("Cu", -1305.0), isolated("Au", -3289.0)]
    assert "do both have the same reference?" in prepare([*far, *alloy_frames])[1]


@pytest.mark.parametrize(
    ("missing", "loss", "scale"),
    [
        ("forces", {"energy": 1.0}, "energies: there are no forces"),
        ("energy", {"forces": 1.0}, "0 eV: no structure has an energy"),
    ],
)
def test_sets_of_energies_or_of_forces_alone_are_learned(
    prepare, alloy_frames, missing, loss, scale
):
    frames = changed(alloy_frames, **{missing: None})
    data, notes = prepare(frames, training__loss={**loss, "stress": 0.0})
    assert missing not in data.shown
    assert getattr(data.config.training.loss, missing) == 0.0
    assert f"without {missing}: no structure has labels of it" in notes
    assert scale in notes
    asked = {"energy": 1.0, "forces": 1.0, "stress": 0.0}
    with pytest.raises(KanMdError, match=rf"data without {missing}.*training.loss.{missing}: 0"):
        prepare(frames, training__loss=asked)


def test_validation_without_a_label_is_told_and_without_any_refused(
    prepare, tmp_path, alloy_frames
):
    without = tmp_path / "val.xyz"
    ase.io.write(without, changed(alloy_frames, forces=None, stress=None))
    notes = prepare(alloy_frames, data__val=str(without))[1]
    assert "no validation structure has forces: the best epoch is chosen without" in notes
    assert "no validation structure has stress" in notes
    assert "has energy" not in notes
    loss = {"energy": 0.0, "forces": 1.0, "stress": 0.0}
    with pytest.raises(KanMdError, match=r"data\.val without forces, got 6 structures, none with"):
        prepare(alloy_frames, data__val=str(without), training__loss=loss)


def test_labels_of_weight_0_are_missing_labels(prepare, alloy_frames):
    frames = changed(alloy_frames)
    for atoms in frames[::2]:
        atoms.calc.results["energy"] = -999.0
        atoms.info["config_energy_weight"] = 0.0
    data, notes = prepare(frames)
    whole = prepare(changed(alloy_frames))[0]
    for name, energy in whole.statistics["reference_energies"].items():
        assert data.statistics["reference_energies"][name] == pytest.approx(energy, abs=2.0)
    assert "energy left out of 3 structures: weight 0 (first data.xyz, frame 0)" in notes
    assert sum(map(len, data.frames.values())) == 6


def test_structures_without_any_label_are_left_out(prepare, alloy_frames):
    frames = changed(alloy_frames)
    frames[1].calc = None
    frames[2].info["config_weight"] = 0.0
    data, notes = prepare(frames)
    assert sum(map(len, data.frames.values())) == 4
    assert "2 structures without energy, forces, stress (first data.xyz, frame 1)" in notes


def test_an_outlier_is_named_and_does_not_set_the_scale(prepare, alloy_frames):
    frames = changed(alloy_frames * 4)
    usual = prepare(frames)[0].statistics["forces_rms"]
    frames[0].calc.results["forces"] = frames[0].calc.results["forces"] * 1e4
    frames[0].info["config_type"] = "dimer"
    split = {"train": 22, "val": 1, "test": 1}
    data, notes = prepare(frames, data__split={**split, "method": "block", "blocks": 1})
    assert data.statistics["forces_rms"] == pytest.approx(usual, rel=0.2)
    assert "force outliers" in notes and "e+04 eV/Å (data.xyz, frame 0); data.max_force" in notes
    assert "RMS of the forces without outliers" in notes
    assert "18 structures occurring again (data.xyz, frames" in notes
    data, notes = prepare(frames, data__max_force=50)
    assert "1 structure by data.max_force: 50 eV/Å (first data.xyz, frame 0)" in notes
    assert "force outliers" not in notes


def test_the_same_file_for_training_and_validation_is_told(prepare, tmp_path, alloy_frames):
    _, notes = prepare(alloy_frames, data__val=str(tmp_path / "data.xyz"))
    assert "warning" in notes and "6 of 6 val structures are in the training set too" in notes
    ase.io.write(tmp_path / "other.traj", alloy_frames[2:4])
    _, notes = prepare(alloy_frames, data__val=str(tmp_path / "other.traj"))
    assert "2 of 2 val structures are in the training set too" in notes
    assert "(first other.traj, frame 0)" in notes


def test_misspelt_names_are_refused_with_what_is_there(prepare, alloy_frames):
    with pytest.raises(KanMdError, match="got my_wieght, which no structure has; allowed: energy"):
        prepare(alloy_frames, data__keys={"weight": "my_wieght"})


def molecules(frames):
    """Clusters cut from crystals, with the stress of zeros that several codes write."""
    found = changed(frames, stress=np.zeros(6))
    for atoms in found:
        atoms.set_cell(None)
        atoms.pbc = False
        atoms.calc.atoms = atoms.copy()
    return found


def test_stress_of_molecules_changes_nothing(prepare, alloy_frames):
    frames = molecules(alloy_frames[:3]) + changed(alloy_frames[3:])
    data, notes = prepare(frames)
    bare, _ = prepare(changed(frames[:3], stress=None) + frames[3:])
    assert "stress left out of 3 structures: no periodic cell with a volume" in notes
    for part, dataset in data.datasets.items():
        for one, other in zip(dataset.data_list, bare.datasets[part].data_list, strict=True):
            assert one.keys() == other.keys()
            np.testing.assert_equal(one["stress"].numpy(), other["stress"].numpy())
            assert "cell" in one  # molecules and crystals share batches, and parts of either kind
    with pytest.raises(KanMdError, match=r"data without stress.*no periodic cell with a volume"):
        prepare(molecules(alloy_frames))


def test_training_with_all_of_it_ends_in_a_model_with_free_atoms(
    tmp_path, make_config, alloy_frames
):
    frames = [*ISOLATED, *molecules(alloy_frames[:3]), *changed(alloy_frames[3:] * 2)]
    frames[3].calc.results["energy"] = np.nan
    frames[5].calc.results["forces"][0, 1] = np.nan
    frames[6].info["config_stress_weight"] = 0.0
    ase.io.write(tmp_path / "data.xyz", frames)
    ase.io.write(tmp_path / "val.xyz", molecules(alloy_frames[:1]))
    config = make_config(
        {
            "data.train": str(tmp_path / "data.xyz"),
            "data.val": str(tmp_path / "val.xyz"),
            "training.epochs": 2,
        }
    )
    path = train(config, tmp_path / "run")
    checkpoint = load_checkpoint(path)
    assert checkpoint.statistics["reference_sources"] == dict.fromkeys(E0, "isolated atom")
    assert any("isolated atoms" in note for note in checkpoint.training_summary["notes"])
    errors = checkpoint.training_summary["errors"]
    assert errors["val"]["stress_mae"] is None and errors["train"]["stress_mae"] > 0
    for symbol, energy in E0.items():
        atoms = Atoms(symbol)
        atoms.calc = KANCalculator(path)
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9)
