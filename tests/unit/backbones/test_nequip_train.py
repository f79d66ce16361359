"""Our builder as the target of a plain ``nequip-train`` configuration."""

import os
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from ase.io import write

from kan_md.kan.network import KAN

MODEL = {
    "_target_": "kan_md.backbones.allegro.AllegroKANModel",
    "seed": 3,
    "model_dtype": "float32",
    "type_names": ["Ag"],
    "r_max": 3.5,
    "l_max": 1,
    "num_layers": 1,
    "num_scalar_features": 4,
    "num_tensor_features": 2,
    "avg_num_neighbors": 12.0,
    "per_type_energy_scales": 1.0,
    "per_type_energy_shifts": {"Ag": -2.8},
    "radial_chemical_embed": {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 4},
    "readout": {"kind": "kan", "basis": "bspline", "sites": ["output", "latent"]},
}


def configuration(data: Path) -> dict:
    keys = {"total_energy": 1.0, "forces": 1.0}
    metrics = {
        "_target_": "nequip.train.EnergyForceMetrics",
        "coeffs": {"total_energy_rmse": 1.0, "forces_rmse": 1.0},
    }
    return {
        "run": ["train"],
        "data": {
            "_target_": "nequip.data.datamodule.ASEDataModule",
            "seed": 1,
            "split_dataset": {"file_path": str(data), "train": 4, "val": 2},
            "transforms": [
                {
                    "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
                    "model_type_names": ["Ag"],
                },
                {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": 3.5},
            ],
            "train_dataloader": {"_target_": "torch.utils.data.DataLoader", "batch_size": 2},
            "val_dataloader": {"_target_": "torch.utils.data.DataLoader", "batch_size": 2},
        },
        "trainer": {
            "_target_": "lightning.Trainer",
            "accelerator": "cpu",
            "max_epochs": 1,
            "logger": False,
            "enable_progress_bar": False,
            "callbacks": [
                {
                    "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "dirpath": ".",
                    "filename": "last",
                }
            ],
        },
        "training_module": {
            "_target_": "nequip.train.NequIPLightningModule",
            "loss": {
                "_target_": "nequip.train.EnergyForceLoss",
                "per_atom_energy": True,
                "coeffs": keys,
            },
            "val_metrics": metrics,
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.001},
            "model": MODEL,
        },
    }


def test_nequip_train_builds_and_trains_our_model(ag_frames, tmp_path):
    write(tmp_path / "ag.xyz", ag_frames[:6])
    config = configuration(tmp_path / "ag.xyz")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    run = subprocess.run(
        [sys.executable, "-m", "nequip.scripts.train", "-cp", str(tmp_path), "-cn", "config",
         "hydra.run.dir=."],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    from nequip.model.saved_models import ModelFromCheckpoint

    from kan_md.backbones.nequip_settings import nequip_settings

    with nequip_settings():
        (model,) = ModelFromCheckpoint(str(tmp_path / "last.ckpt")).values()
    kans = [module for module in model.modules() if isinstance(module, KAN)]
    assert len(kans) == 2
    assert all(torch.isfinite(p).all() for kan in kans for p in kan.parameters())
