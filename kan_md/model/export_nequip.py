"""From model.pth to a checkpoint that nequip's own tools take.

The checkpoint names kan-md's builders, so it needs kan-md beside nequip where it is used; it holds
no pickled code. Its data section names a file of structures beside it, which nequip-compile and
nequip-package want as an example.
"""

from __future__ import annotations

import copy
import io
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ase
import ase.io
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from nequip.train import NequIPLightningModule

from kan_md.backbones.build import adapter_of
from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.errors import user_error
from kan_md.files import write_bytes
from kan_md.model.checkpoint import Checkpoint, saved_bytes
from kan_md.model.reference import ReferenceFrame, frame_atoms

_TARGET = "kan_md.backbones.{module}.{builder}"
_PACKAGES = ("kan-md", "nequip")
_TRAINING_MODULE = "nequip.train.NequIPLightningModule"


def export_nequip(checkpoint: Checkpoint, path: Path) -> Path:
    """Write a checkpoint of nequip with the weights of a potential.

    Args:
        checkpoint: of a potential with reference frames.
        path: to write, ending in ``.ckpt``; the structures go beside it, ending in ``.xyz``.

    Returns:
        Path of the structures.

    Raises:
        KanMdError: there are no reference frames, or a file cannot be written.
    """
    if not checkpoint.reference_frames:
        raise user_error(
            "a model to export needs reference frames, which nequip-compile takes as examples",
            found="none",
            allowed=None,
            remedy="train or convert it again with this version of kan-md",
        )
    structures = path.with_suffix(".xyz").absolute()
    text = io.StringIO()
    frames = [_labelled(frame, checkpoint.type_names) for frame in checkpoint.reference_frames]
    ase.io.write(text, frames, format="extxyz")
    write_bytes(structures, text.getvalue().encode())
    parameters = {
        "model": _model_section(checkpoint),
        "num_datasets": {"train": 1, "val": 0, "test": 0, "predict": 0},
        "info_dict": {
            "versions": {name: version(name) for name in _PACKAGES},
            "data": _data_section(structures, checkpoint),
            "training_module": {"_target_": _TRAINING_MODULE},
        },
    }
    content = {
        "pytorch-lightning_version": version("lightning"),
        "epoch": 0,
        "global_step": 0,
        "hyper_parameters": parameters,
        "state_dict": _state(checkpoint, parameters),
    }
    write_bytes(path, saved_bytes(content))
    return structures


def _state(checkpoint: Checkpoint, parameters: dict[str, Any]) -> dict[str, torch.Tensor]:
    """State of nequip's Lightning module, which holds more than the model."""
    with nequip_settings():
        module = NequIPLightningModule(**copy.deepcopy(parameters))
    (model,) = module.model.values()
    model.load_state_dict(checkpoint.build().state_dict())
    return module.state_dict()


def _model_section(checkpoint: Checkpoint) -> dict[str, Any]:
    adapter = adapter_of(checkpoint.backbone)
    target = _TARGET.format(module=adapter.module, builder=adapter.builder)
    arguments = {**checkpoint.arguments, "model_dtype": checkpoint.dtype}
    arguments["readout"] = checkpoint.readout.model_dump(mode="json")
    names = ("per_type_energy_scales", "per_type_energy_shifts")
    for name, neutral in zip(names, (1.0, 0.0), strict=True):
        if arguments.get(name) is None:  # as build_model has it
            arguments[name] = dict.fromkeys(checkpoint.type_names, neutral)
    return {"_target_": target, **arguments}


def _data_section(structures: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """A data module of nequip that reads the structures."""
    names = list(checkpoint.type_names)
    mapper = "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper"
    neighbours = "nequip.data.transforms.NeighborListTransform"
    return {
        "_target_": "nequip.data.datamodule.ASEDataModule",
        "seed": 0,
        "train_file_path": str(structures),
        "val_file_path": str(structures),
        "transforms": [
            {"_target_": mapper, "model_type_names": names},
            {"_target_": neighbours, "r_max": float(checkpoint.r_max)},
        ],
        "train_dataloader": {"_target_": "torch.utils.data.DataLoader", "batch_size": 1},
    }


def _labelled(frame: ReferenceFrame, type_names: list[str]) -> ase.Atoms:
    """A structure with the energy and forces that the model gives it."""
    atoms = frame_atoms(frame, type_names)
    labels = {"energy": float(frame["energy"]), "forces": frame["forces"].numpy()}
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms
