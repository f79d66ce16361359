"""Conversion of nequip-train's checkpoints and packages, against upstream's own models."""

import copy
import importlib
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint, save_checkpoint
from kan_md.model.convert import convert_model
from kan_md.model.inert_pickle import Inert, read_package_pickle, state_of
from kan_md.model.random_structures import random_structures
from kan_md.model.reference import evaluate, model_input

COMMON = {
    "seed": 3,
    "model_dtype": "float32",
    "type_names": ["Si", "O"],
    "r_max": 4.0,
    "avg_num_neighbors": 18.0,
    "per_type_energy_scales": 1.3,
    "per_type_energy_shifts": {"Si": -2.8, "O": -1.5},
}
ALLEGRO = COMMON | {
    "_target_": "allegro.model.AllegroModel",
    "l_max": 1,
    "num_layers": 1,
    "num_scalar_features": 8,
    "num_tensor_features": 4,
    "radial_chemical_embed": {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 4},
    "scalar_embed_mlp_hidden_layers_width": 8,
    "allegro_mlp_hidden_layers_width": 8,
    "readout_mlp_hidden_layers_width": 8,
}
NEQUIP = COMMON | {
    "_target_": "nequip.model.NequIPGNNModel",
    "num_layers": 2,
    "l_max": 1,
    "num_features": 4,
    "radial_mlp_width": 8,
}
ZBL = {
    "_target_": "nequip.nn.pair_potential.ZBL",
    "units": "metal",
    "chemical_species": ["Si", "O"],
}
CUTOFFS = {"Si": {"Si": 3.0, "O": 3.5}, "O": 2.5}
PER_TYPE = {"modifier": "modify_PerTypeScaleShift", "shifts": {"Si": 4.0, "O": -2.0}}


@pytest.fixture(scope="module")
def structures() -> list[Atoms]:
    close = Atoms("SiOSi", [[0.0, 0.0, 0.0], [0.3, 0.1, 1.2], [2.0, 1.0, 0.4]])
    return [*random_structures(["O", "Si"], 1, rng=np.random.default_rng(7)), close]


def settings(data: str, model: dict) -> dict:
    """Configuration of a nequip-train run of two epochs that keeps averaged weights."""
    loader = {"_target_": "torch.utils.data.DataLoader", "batch_size": 2}
    metrics = {"total_energy_rmse": 1.0, "forces_rmse": 1.0}
    return {
        "run": ["train"],
        "data": {
            "_target_": "nequip.data.datamodule.ASEDataModule",
            "seed": 1,
            "split_dataset": {"file_path": data, "train": 4, "val": 2},
            "transforms": [
                {
                    "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
                    "model_type_names": "${training_module.model.type_names}",
                },
                {
                    "_target_": "nequip.data.transforms.NeighborListTransform",
                    "r_max": "${training_module.model.r_max}",
                },
            ],
            "train_dataloader": loader,
            "val_dataloader": loader,
        },
        "trainer": {
            "_target_": "lightning.Trainer",
            "accelerator": "cpu",
            "max_epochs": 2,
            "logger": False,
            "enable_progress_bar": False,
            "callbacks": [
                {
                    "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "dirpath": ".",
                    "filename": "best",
                }
            ],
        },
        "training_module": {
            "_target_": "nequip.train.EMALightningModule",
            "ema_decay": 0.5,
            "loss": {
                "_target_": "nequip.train.EnergyForceLoss",
                "per_atom_energy": True,
                "coeffs": {"total_energy": 1.0, "forces": 1.0},
            },
            "val_metrics": {"_target_": "nequip.train.EnergyForceMetrics", "coeffs": metrics},
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.05},
            "model": model,
        },
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of a nequip-train run with a best.ckpt and the package of it."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(6):
        atoms = bulk("Si", "diamond", a=5.43, cubic=True)
        atoms.symbols[::3] = "O"
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        labels = {"energy": -32.0 + rng.normal(), "forces": rng.normal(0, 0.3, (8, 3))}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    write(folder / "data.xyz", frames)
    model = ALLEGRO | {"per_type_energy_shifts_trainable": True, "model_dtype": "float64"}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings(str(folder / "data.xyz"), model)))
    train = ["", "-cp", str(folder), "-cn", "config", "hydra.run.dir=."]
    script = f"""
import sys
from nequip.scripts import package, train
sys.argv = {train}
train.main()
package.main(["build", "best.ckpt", "model.nequip.zip"])
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return folder


def upstream_calculator(path):
    from nequip.integrations.ase import NequIPCalculator

    with nequip_settings():
        return NequIPCalculator._from_saved_model(str(path), chemical_species_to_atom_type_map=True)


@pytest.mark.parametrize("name", ["best.ckpt", "model.nequip.zip"])
def test_converted_file_is_what_nequips_own_calculator_says(trained, structures, tmp_path, name):
    result = convert_model(trained / name, structures=structures)
    path = save_checkpoint(result.checkpoint, tmp_path / "model.pth")
    model = load_checkpoint(path).build()
    with nequip_settings():
        calculator = upstream_calculator(trained / name)
        for atoms in structures:
            atoms = atoms.copy()
            atoms.calc = calculator
            ours = evaluate(model, atoms)
            assert float(ours["energy"]) == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
            np.testing.assert_allclose(ours["forces"].numpy(), atoms.get_forces(), atol=1e-6)
    assert result.energy_error < 1e-9 and result.force_error < 1e-9
    assert (result.weights == "the exponential moving average") == (name == "best.ckpt")


def test_averages_are_taken_and_not_the_last_steps_weights(trained):
    content = torch.load(trained / "best.ckpt", weights_only=True)["state_dict"]
    state = convert_model(trained / "best.ckpt").checkpoint.state_dict
    name = "model.func.allegro.tps.0.weights"
    assert not torch.equal(state[name], content[f"model.sole_model.{name}"])
    assert any(torch.equal(state[name], v) for n, v in content.items() if "ema_weight" in n)


def test_package_is_compared_with_its_own_code_on_consent(trained, structures):
    result = convert_model(trained / "model.nequip.zip", trust=True, structures=structures)
    assert result.compared_with == "the code in model.nequip.zip"
    assert result.energy_error < 1e-9 and result.force_error < 1e-9


def test_code_of_a_package_is_not_run_without_consent(trained, tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "evil.nequip.zip"

    class Trap:
        def __reduce__(self):
            return (exec, (f"open({str(marker)!r}, 'w').close()",))

    with zipfile.ZipFile(trained / "model.nequip.zip") as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.namelist():
            content = old.read(entry)
            if entry.endswith(".py"):
                content = f"open({str(marker)!r}, 'w').close()\n".encode() + content
            new.writestr(entry, content)
    assert convert_model(path).energy_error < 1e-9
    with zipfile.ZipFile(path, "w") as new:
        new.writestr("evil/model/eager_model.pkl", pickle.dumps([Trap()]))
    (found,) = read_package_pickle(path, "model", "eager_model.pkl")
    assert isinstance(found, Inert) and found.class_name == "builtins.exec"
    assert not marker.exists()


def test_state_of_a_package_is_that_of_its_model(trained):
    from nequip.model.saved_models import ModelFromPackage

    path = trained / "model.nequip.zip"
    inert = state_of(read_package_pickle(path, "model", "eager_model.pkl"))
    with nequip_settings():
        real = ModelFromPackage(str(path)).state_dict()
    assert list(inert) == list(real)
    assert all(torch.equal(inert[name], real[name]) for name in real)


VARIANTS = {
    "allegro": {},
    "allegro, l_max 2, no parity, 2 layers": {"l_max": 2, "parity": False, "num_layers": 2},
    "allegro, paths apart": {"tp_path_channel_coupling": False},
    "allegro, linear readout": {"readout_mlp_hidden_layers_depth": 0},
    "allegro, deep mish readout": {
        "readout_mlp_hidden_layers_depth": 2,
        "readout_mlp_nonlinearity": "mish",
    },
    "allegro, deep linear readout": {
        "readout_mlp_hidden_layers_depth": 2,
        "readout_mlp_nonlinearity": None,
    },
    "allegro, identities between": {
        "readout_mlp_nonlinearity": "None",
        "allegro_mlp_nonlinearity": None,
        "scalar_embed_mlp_nonlinearity": "gelu",
    },
    "allegro, normalised backwards": {
        "forward_normalize": False,
        "readout_mlp_hidden_layers_depth": 2,
    },
    "allegro, cutoffs of pairs, ZBL": {"per_edge_type_cutoff": CUTOFFS, "pair_potential": ZBL},
    "allegro, splines": {
        "radial_chemical_embed": {"_target_": "allegro.nn.TwoBodySplineScalarEmbed"},
        "radial_chemical_embed_dim": 6,
    },
    "allegro, neighbours by type, no energies": {
        "avg_num_neighbors": {"Si": 10.0, "O": 30.0},
        "per_type_energy_scales": None,
        "per_type_energy_shifts": None,
    },
    "allegro, all trained": {
        "per_type_energy_scales_trainable": True,
        "per_type_energy_shifts_trainable": True,
        "radial_chemical_embed": {
            "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
            "num_bessels": 4,
            "bessel_trainable": True,
            "polynomial_cutoff_p": 9,
        },
    },
    "allegro, changed energies": {"modifiers": [PER_TYPE]},
    "allegro, by irreps": {
        "_target_": "allegro.model.allegro_models.FullAllegroModel",
        "without": ["l_max"],
        "irreps_edge_sh": "1x0e+1x1o",
        "tensor_track_allowed_irreps": "1x0e+1x1o",
    },
    "nequip": {},
    "nequip, widths by l, types embedded apart": {
        "l_max": 2,
        "num_features": [6, 3, 2],
        "parity": False,
        "type_embed_num_features": 3,
        "radial_mlp_depth": 2,
        "num_bessels": 5,
        "bessel_trainable": True,
        "polynomial_cutoff_p": 4,
        "readout_mlp_hidden_layers_depth": 1,
    },
    "nequip, residual, gelu, cutoffs of pairs, ZBL, float64": {
        "model_dtype": "float64",
        "convnet_resnet": True,
        "parity": False,
        "readout_mlp_hidden_layers_depth": 2,
        "readout_mlp_hidden_layers_width": 7,
        "readout_mlp_nonlinearity": "gelu",
        "per_edge_type_cutoff": CUTOFFS,
        "pair_potential": ZBL,
        "avg_num_neighbors": {"Si": 10.0, "O": 30.0},
        "per_type_energy_scales": {"Si": 2.0, "O": 1.0},
    },
    "nequip, preset": {
        "_target_": "nequip.model.PresetNequIPGNNModel",
        "preset": "S",
        "num_features": [4, 2],
        "without": ["num_layers", "l_max"],
    },
    "nequip, by irreps": {
        "_target_": "nequip.model.nequip_models.FullNequIPGNNModel",
        "without": ["num_layers", "l_max", "num_features"],
        "irreps_edge_sh": "1x0e+1x1o",
        "feature_irreps_hidden": ["4x0e+2x1o", "4x0e"],
        "radial_mlp_depth": [1, 1],
        "radial_mlp_width": [8, 8],
        "type_embed_num_features": 4,
    },
}


def write_checkpoint(path, model: dict, *, modifiers=(), **content):
    """A checkpoint as nequip-train writes it, of a model with other than its initial weights.

    Returns:
        Upstream's model with these weights, in float64.
    """
    arguments = dict(model)
    target = importlib.import_module("hydra.utils").get_method(arguments.pop("_target_"))
    with nequip_settings():
        fresh = target(**copy.deepcopy(arguments))
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in fresh.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.add_(0.2 * noise)
        exact = target(**copy.deepcopy(arguments) | {"model_dtype": "float64"})
        exact.load_state_dict(fresh.state_dict())
        if modifiers:
            from nequip.model.modify_utils import modify

            fresh, exact = (modify(m, copy.deepcopy(list(modifiers))) or m for m in (fresh, exact))
            model = {"_target_": "nequip.model.modify", "model": model, "modifiers": [*modifiers]}
    saved = {
        "pytorch-lightning_version": "2.6",
        "hyper_parameters": {
            "model": model,
            "info_dict": {"versions": {}, "training_module": {"_target_": "nequip.train.X"}},
        },
        "state_dict": {f"model.sole_model.{n}": v for n, v in fresh.state_dict().items()},
    }
    torch.save(saved | content, path)
    return exact.eval()


def variant(name: str) -> dict:
    changes = dict(VARIANTS[name])
    model = {**(ALLEGRO if name.startswith("allegro") else NEQUIP), **changes}
    left_out = {"modifiers", "without", *changes.get("without", ())}
    return {key: value for key, value in model.items() if key not in left_out}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_upstreams_energies_and_forces(structures, tmp_path, name):
    model = variant(name)
    upstream = write_checkpoint(
        tmp_path / "best.ckpt", model, modifiers=VARIANTS[name].get("modifiers", ())
    )
    checkpoint = convert_model(tmp_path / "best.ckpt", structures=structures).checkpoint
    assert checkpoint.dtype == model["model_dtype"]
    ours = checkpoint.build("float64")
    for atoms in structures:
        theirs = upstream(model_input(atoms, 4.0, ["Si", "O"]))
        said = evaluate(ours, atoms)
        assert float(said["energy"]) == pytest.approx(theirs["total_energy"].item(), abs=1e-6)
        torch.testing.assert_close(said["forces"], theirs["forces"], rtol=0, atol=1e-6)
        assert said["forces"].abs().max() > 1e-3


@pytest.mark.parametrize("name", ["allegro", "nequip"])
def test_kan_takes_over_the_old_readout(tmp_path, name):
    write_checkpoint(tmp_path / "best.ckpt", variant(name))
    many = random_structures(["O", "Si"], 6, rng=np.random.default_rng(3))
    result = convert_model(tmp_path / "best.ckpt", readout="kan", structures=many)
    assert result.checkpoint.readout.kind == "kan"
    assert result.fit.r_squared > 0.9
    kan, kept = result.checkpoint, convert_model(tmp_path / "best.ckpt", structures=many).checkpoint
    said, before = (
        np.array([float(evaluate(model, a)["energy"]) / len(a) for a in many])
        for model in (kan.build(), kept.build())
    )
    assert np.abs(said - before).max() < 0.1 * np.ptp(before)
    weights, old = kan.state_dict, kept.state_dict
    assert all(torch.equal(weights[name], old[name]) for name in weights if name in old)


def test_depth_that_an_earlier_version_had_by_default_is_in_the_weights(structures, tmp_path):
    """The radial networks' depth was 2 and their width 64 before nequip 0.13."""
    old = variant("nequip") | {"radial_mlp_depth": 2, "radial_mlp_width": 64}
    upstream = write_checkpoint(tmp_path / "best.ckpt", old)
    content = torch.load(tmp_path / "best.ckpt", weights_only=True)
    for name in ("radial_mlp_depth", "radial_mlp_width"):
        del content["hyper_parameters"]["model"][name]
    content["hyper_parameters"]["info_dict"]["versions"] = {"nequip": "0.12.1", "e3nn": "0.5"}
    content["hyper_parameters"]["model"]["per_type_energy_shifts"] = [-2.8, -1.5]
    scale = "model.sole_model.model.func.per_type_energy_scale_shift.scales"
    content["state_dict"][scale] = content["state_dict"][scale].flatten()
    torch.save(content, tmp_path / "best.ckpt")
    result = convert_model(tmp_path / "best.ckpt", structures=structures)
    assert result.note.startswith("made with nequip 0.12.1, compared with nequip ")
    theirs = upstream(model_input(structures[0], 4.0, ["Si", "O"]))["total_energy"]
    ours = evaluate(result.checkpoint.build("float64"), structures[0])["energy"]
    assert float(ours) == pytest.approx(theirs.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("nequip", {"_target_": "os.system"}, "builder of the model, got os.system; allowed: Alle"),
        ("nequip", {"pair_potential": {"_target_": "os.system"}}, "_target_ of a hyperparameter"),
        ("allegro", {"readout_mlp_nonlinearity": "sigmoid"}, "readout_mlp_nonlinearity of the mod"),
        ("allegro", {"scatter_features": True}, "does not build this model.*scatter_features"),
        ("nequip", {"type_names": ["Si", "Q"]}, "must be element symbols, got Q"),
        ("nequip", {"num_features": 8}, "weights of the file do not fit .* for "),
        ("nequip", {"learnable_shift": True}, "weights of the file do not fit .*no .*layer0"),
        ("nequip", {"_target_": "nequip.model.ModelFromPackage", "package_path": "foo.nequip.zip"},
         "started from a file, .*got no foo.nequip.zip; put foo.nequip.zip beside best.ckpt"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_named(tmp_path, name, changes, message):
    write_checkpoint(tmp_path / "best.ckpt", variant(name))
    content = torch.load(tmp_path / "best.ckpt", weights_only=True)
    content["hyper_parameters"]["model"] |= changes
    torch.save(content, tmp_path / "best.ckpt")
    with pytest.raises(KanMdError, match=message) as caught:
        convert_model(tmp_path / "best.ckpt")
    assert "\n" not in str(caught.value)


def test_missing_weight_and_exchanged_averages_are_named(tmp_path):
    path = tmp_path / "best.ckpt"
    write_checkpoint(path, variant("allegro"))
    content = torch.load(path, weights_only=True)
    averages = {"ema._extra_state": {"is_holding_ema_weights": False}, "ema.ema_weight_0": 1.0}
    torch.save(content | {"state_dict": content["state_dict"] | averages}, path)
    with pytest.raises(KanMdError, match="saved while the average of the weights was in use"):
        convert_model(path)
    torch.save(content | {"schedulefree_optimizer_state_dict": {}}, path)
    with pytest.raises(KanMdError, match="run nequip-package build on it"):
        convert_model(path)
    state = dict(content["state_dict"])
    del state["model.sole_model.model.func.per_type_energy_scale_shift.scales"]
    torch.save(content | {"state_dict": state}, path)
    with pytest.raises(KanMdError, match=r"not all there, got no per_type_energy_scale_shift\.sc"):
        convert_model(path)
    del content["state_dict"]["model.sole_model.model.func.allegro.tps.0.weights"]
    torch.save(content, path)
    with pytest.raises(KanMdError, match=r"do not fit .*got no model\.func\.allegro\.tps\.0\.w"):
        convert_model(path)


def test_training_that_started_from_a_file_needs_it_beside(structures, tmp_path):
    source, path = tmp_path / "source.ckpt", tmp_path / "best.ckpt"
    write_checkpoint(source, variant("allegro"))
    upstream = write_checkpoint(path, variant("allegro"))
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["model"] = {
        "_target_": "nequip.model.ModelFromCheckpoint",
        "checkpoint_path": "/elsewhere/source.ckpt",
    }
    torch.save(content, path)
    model = convert_model(path, structures=structures).checkpoint.build("float64")
    theirs = upstream(model_input(structures[0], 4.0, ["Si", "O"]))["total_energy"]
    assert float(evaluate(model, structures[0])["energy"]) == pytest.approx(theirs.item(), abs=1e-6)
