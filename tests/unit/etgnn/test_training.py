"""Learning tensors from labelled structures, and what labels must be like."""

import json

import numpy as np
import pytest
import torch
from ase import Atoms

from kan_md.backbones.etgnn import parse_tensors
from kan_md.config import parse_config
from kan_md.data.charge_transfer import make_charge_transfer
from kan_md.data.reading import read_frames
from kan_md.data.write import write_frames
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint
from kan_md.tasks.tensor_checks import check_tensor_labels
from kan_md.train.log import read_log
from kan_md.train.preparation import prepare_data
from kan_md.train.run import train
from kan_md_deploy import deploy, load_deployed

MODEL = {
    "backbone": "etgnn",
    "r_max": 3.9,
    "triplet_r_max": 3.0,
    "num_layers": 1,
    "num_features": 16,
    "num_triplet_features": 8,
    "num_radial": 4,
    "num_angular": 3,
}


@pytest.fixture(scope="module")
def born_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("born") / "born.xyz"
    return write_frames(make_charge_transfer(16, 0), path)


def configuration(path, **changes):
    return parse_config(
        {
            "data": {"train": str(path), "split": {"train": 10, "val": 3, "test": 3}},
            "model": MODEL,
            "targets": [{"name": "bec"}],
            "training": {
                "epochs": 25,
                "ema": None,
                "batch_size": 2,
                "optimizer": {"lr": 0.02},
                "schedule": {"name": "one_cycle"},
                "device": "cpu",
            },
        }
        | changes
    )


@pytest.fixture(scope="module")
def trained(born_file, tmp_path_factory):
    return train(configuration(born_file), tmp_path_factory.mktemp("run") / "run")


def test_training_beats_the_mean_of_each_species(trained, born_file):
    """Held-out error against the best constant per species, which is the trained shift."""
    errors = json.loads((trained.parent / "metrics.json").read_text())["errors"]
    frames = make_charge_transfer(16, 0)
    deviations = []
    for symbol in ("Zn", "S"):
        labels = np.concatenate([a.arrays["bec"][a.symbols == symbol] for a in frames])
        deviations.append(abs(labels - labels.mean(0)).mean())
    assert errors["test"]["bec_mae"] < 0.5 * np.mean(deviations)


def test_statistics_of_the_training_set_normalise_the_model(trained):
    checkpoint = load_checkpoint(trained)
    arguments = checkpoint.config["model"]
    assert arguments["type_shifts"]["bec"][0] < 0 < arguments["type_shifts"]["bec"][1]  # S, Zn
    # Zinc blende has four bonds per atom in reach of a leg: three paths go on behind each.
    assert arguments["avg_num_triplets"] == pytest.approx(3.0, abs=0.2)
    assert arguments["avg_num_neighbors"] == pytest.approx(10.0, abs=6.0)
    assert 0.01 < arguments["scales"]["bec"] < 0.5


def test_trained_model_deploys_and_keeps_its_numbers(trained):
    checkpoint = load_checkpoint(trained)
    frame = checkpoint.reference_frames[0]
    deployed = load_deployed(deploy(trained, dtype="float64"))
    atoms = Atoms(
        [checkpoint.type_names[t] for t in frame["atom_types"].tolist()],
        positions=frame["positions"].numpy(),
        cell=frame["cell"].numpy(),
        pbc=frame["pbc"].numpy(),
    )
    predicted = deployed.predict(atoms)["bec"]
    np.testing.assert_allclose(predicted, frame["tensors"]["bec"].numpy(), atol=2e-5)


def test_structure_tensors_can_be_learned_beside_atomic_ones(born_file, tmp_path):
    config = configuration(
        born_file,
        targets=[
            {"name": "bec", "weight": 0.5},
            {"name": "susceptibility", "per": "structure", "symmetry": "symmetric"},
        ],
        training={"epochs": 2, "batch_size": 2, "device": "cpu"},
    )
    model = train(config, tmp_path / "run")
    errors = json.loads((model.parent / "metrics.json").read_text())["errors"]["test"]
    assert np.isfinite([errors["bec_mae"], errors["susceptibility_mae"]]).all()
    tensor = load_checkpoint(model).reference_frames[0]["tensors"]["susceptibility"]
    assert tensor.shape == (9,)


def test_heads_alone_are_trained_on_another_models_backbone(trained, born_file, tmp_path):
    training = {"epochs": 1, "batch_size": 5, "device": "cpu", "ema": None, "freeze": "backbone"}
    training["init_from"] = str(trained)
    old = load_checkpoint(trained)
    train(configuration(born_file, training=training), tmp_path / "run")
    new = load_checkpoint(tmp_path / "run" / "model.pth").state_dict
    moved = {n for n in new if not torch.equal(new[n], old.state_dict[n])}
    assert moved
    assert all("_readout" in name for name in moved)
    shifts = {"bec": [-1.0, 1.0]}
    given = configuration(born_file, training=training, model={**MODEL, "type_shifts": shifts})
    train(given, tmp_path / "given")
    (shift,) = (
        v
        for n, v in load_checkpoint(tmp_path / "given" / "model.pth").state_dict.items()
        if n.endswith("type_shifts")
    )
    assert shift.tolist() == [-1.0, 1.0]
    for changes, message in (
        ({"model": {**MODEL, "r_max": 4.1}}, r"r_max 4.1 here, 3.9 there"),
        (
            {"targets": [{"name": "bec", "acoustic_sum_rule": False}]},
            r"got tensors\[0\].acoustic_sum_rule False here, True there;",
        ),
    ):
        with pytest.raises(KanMdError, match=message):
            train(configuration(born_file, training=training, **changes), tmp_path / "no")


def test_resumed_run_takes_other_weights_but_no_other_tensors(born_file, tmp_path):
    susceptibility = {"name": "susceptibility", "per": "structure", "symmetry": "symmetric"}

    def of(epochs, *targets):
        training = {"epochs": epochs, "batch_size": 5, "device": "cpu"}
        return configuration(born_file, targets=targets, training=training)

    train(of(1, {"name": "bec"}, susceptibility), tmp_path / "run")
    changed = of(2, {"name": "bec", "weight": 9.0, "unit": "e"}, susceptibility)
    train(changed, tmp_path / "run", resume=True)
    rows = read_log(tmp_path / "run" / "log.csv")
    # Weights are normalised: nine tenths and one tenth now.
    expected = 0.9 * rows[1]["val_loss_bec"] + 0.1 * rows[1]["val_loss_susceptibility"]
    assert rows[1]["val_loss"] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(KanMdError, match="targets of a resumed run"):
        train(of(3, {"name": "bec"}), tmp_path / "run", resume=True)


# ---- bad input


def labelled(array, name="bec", **atoms_keywords):
    atoms = Atoms("ZnS", positions=[[0, 0, 0], [1.4, 1.4, 1.4]], cell=[5, 5, 5], **atoms_keywords)
    atoms.arrays[name] = np.asarray(array, dtype=float)
    atoms.info["source"] = "a.xyz, frame 0"
    return [atoms]


def test_odd_tensors_are_told_and_one_outlier_sets_no_scale(born_file, tmp_path):
    def prepared(change):
        frames = read_frames(born_file)
        for index, atoms in enumerate(frames):
            atoms.arrays["bec"] = change(index, atoms.arrays["bec"])
        path = write_frames(frames, tmp_path / "changed.xyz", overwrite=True)
        data = prepare_data(configuration(path, data={"train": str(path), "val": str(path)}))
        return data, "\n".join(text for _, text in data.notes)

    plain, notes = prepared(lambda index, bec: bec)
    assert "bec" not in notes
    spoilt, notes = prepared(lambda index, bec: bec * (1e6 if index == 2 else 1))
    assert "bec of 1 structure far larger than the others" in notes
    assert "changed.xyz, frame 2" in notes
    scales = [data.statistics["scales"]["bec"] for data in (plain, spoilt)]
    assert scales[1] == pytest.approx(scales[0], rel=0.2)
    charged = prepared(lambda index, bec: bec + 1.0)[1]
    assert "bec does not add up to 0 in 16 structures, up to 1 per atom" in charged


def test_missing_array_is_told(born_file, tmp_path):
    config = configuration(born_file, targets=[{"name": "alpha"}])
    with pytest.raises(KanMdError, match="data without alpha, got 16 structures, none with alpha"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "model.pth").exists()


def test_labels_that_are_nan_or_of_weight_0_are_missing(born_file, tmp_path):
    frames = read_frames(born_file)
    frames[0].arrays["bec"][:] = np.nan
    frames[1].info["config_weight"] = 0.0
    frames[2].arrays["bec"][0] = np.nan
    del frames[3].arrays["bec"]
    path = write_frames(frames, tmp_path / "some.xyz")
    data = prepare_data(configuration(path, targets=[{"name": "bec", "symmetry": "full"}]))
    assert sum(map(len, data.frames.values())) == 13
    assert any("3 structures without bec" in text for _, text in data.notes)
    assert np.isfinite(data.statistics["scales"]["bec"])


def test_wrong_number_of_columns_is_told():
    with pytest.raises(
        KanMdError, match=r"frame 0: columns of bec for rank 2, got 6; allowed: 9; correct the file"
    ):
        check_tensor_labels(labelled(np.ones((2, 6))), parse_tensors("bec"))


def test_asymmetric_labels_of_a_symmetric_target_are_told():
    label = np.zeros((2, 9))
    label[:, 0], label[1, 1] = 1.0, 0.5
    (full,) = parse_tensors("bec")
    check_tensor_labels(labelled(label), [full])
    symmetric = parse_tensors({"name": "bec", "symmetry": "symmetric"})
    with pytest.raises(
        KanMdError, match=r"symmetric tensor bec, got an antisymmetric part of 0.25"
    ):
        check_tensor_labels(labelled(label), symmetric)
    label[1, 1] = 0.0
    traceless = parse_tensors({"name": "bec", "symmetry": "traceless"})
    with pytest.raises(KanMdError, match=r"traceless tensor bec, got a trace of 1"):
        check_tensor_labels(labelled(label), traceless)


def test_crystal_tensor_without_a_periodic_cell_is_told():
    frames = labelled(np.ones((2, 9)), name="ignored", pbc=[True, True, False])
    frames[0].info["dielectric"] = np.eye(3)
    dielectric = parse_tensors({"name": "dielectric", "per": "structure"})
    with pytest.raises(KanMdError, match=r"frame 0: dielectric is a crystal's .* got pbc T T F"):
        check_tensor_labels(frames, dielectric)
    check_tensor_labels(
        frames,
        parse_tensors({"name": "dielectric", "per": "structure", "reduction": "sum"}),
    )


def test_unknown_element_is_told(born_file, tmp_path):
    config = configuration(born_file, model=MODEL | {"type_names": ["Zn", "O"]})
    with pytest.raises(KanMdError, match=r"element that the model does not know .* got S"):
        train(config, tmp_path / "run")
