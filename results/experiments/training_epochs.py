"""Whole epochs by the programs that people run: kan-md, nequip-train and mace_run_train."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from kan_md.benchmark.log import last_line
from kan_md.benchmark.statistics import median_and_spread
from results.experiments.step_timing import LOCAL_MACE, MACE, NEQUIP, README, SMALL, TYPES
from results.experiments.zoo import run_program

RUNNER = Path(__file__).with_name("run_trainer.py")
TRAIN, VAL, BATCH = 40, 6, 2
ROUNDS = 2
FIRST_PRINCIPLES = "HfO2.xyz"
"""Where the folder of data has it; otherwise fluorite with labels of a pair potential."""

_FORCES_FIRST = {"total_energy": 1.0, "forces": 1.0, "stress": 1.0}
_METRICS = {"total_energy_mae": 1.0, "forces_mae": 1.0, "stress_mae": 1.0}
_UPSTREAM = {
    "allegro": {
        "_target_": "allegro.model.AllegroModel",
        "radial_chemical_embed": {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed"},
    },
    "nequip": {"_target_": "nequip.model.NequIPGNNModel"},
}


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A program, a model and how many threads and processes it has.

    Attributes:
        label: in the table.
        program: of :mod:`results.experiments.run_trainer`.
        model: hyperparameters as kan-md names them, by which upstream's are made.
        readout: kan-md's; None is upstream's own.
        threads: of each process.
        processes: of kan-md.
        batch: frames per step of all processes together, of kan-md.
    """

    label: str
    program: str
    model: Mapping
    readout: Mapping = field(default_factory=lambda: {"kind": "mlp"})
    threads: int = 1
    processes: int = 1
    batch: int = BATCH

    def settings(self, epochs: int) -> dict:
        """What the program is given, with the data in the folder above its own."""
        if self.program == "nequip-train":
            return _nequip_settings(self.model, epochs)
        if self.program == "mace_run_train":
            return _mace_settings(self.model, epochs)
        return {
            "data": {"train": "../train.xyz", "val": "../val.xyz"},
            "model": dict(self.model),
            "readout": dict(self.readout),
            "training": {
                "batch_size": self.batch,
                "epochs": epochs,
                "device": "cpu",
                "devices": self.processes,
                "threads": self.threads,
            },
        }


KAN = {"kind": "kan", "basis": "gaussian"}


def _three(name: str, model: Mapping, upstream: str, *, plain: str = "mlp") -> list[Trainer]:
    """A model by upstream's program, the same by kan-md, and with a KAN."""
    return [
        Trainer(label=f"{name}, {upstream}", program=upstream, model=model),
        Trainer(
            label=f"{name}, kan-md, {plain}", program="kan-md", model=model, readout={"kind": plain}
        ),
        Trainer(label=f"{name}, kan-md, Gaussian KAN", program="kan-md", model=model, readout=KAN),
    ]


TABLES: dict[str, list[Trainer]] = {
    "Allegro": [
        *_three("Allegro", README, "nequip-train"),
        Trainer(label="2 threads, nequip-train", program="nequip-train", model=README, threads=2),
        Trainer(label="2 threads, kan-md", program="kan-md", model=README, readout=KAN, threads=2),
        Trainer(
            label="2 processes, kan-md", program="kan-md", model=README, readout=KAN, processes=2
        ),
    ],
    "small Allegro": _three("small Allegro", SMALL, "nequip-train"),
    "NequIP": _three("NequIP", NEQUIP, "nequip-train"),
    "MACE": _three("MACE", MACE, "mace_run_train"),
    "one-layer MACE": _three("one-layer MACE", LOCAL_MACE, "mace_run_train", plain="linear"),
}
"""Each table is one interleaved run, upstream's program first."""


SHARED = {"Allegro": README, "small Allegro": SMALL}
BATCHES = (2, 8)
PROCESSES = (1, 2)


def shared_batches(name: str) -> list[Trainer]:
    """One model of :data:`SHARED` by one and two processes, which share every batch."""
    return [
        Trainer(
            label=f"{batch} / {number}",
            program="kan-md",
            model=SHARED[name],
            readout=KAN,
            processes=number,
            batch=batch,
        )
        for batch in BATCHES
        for number in PROCESSES
    ]


def measure(trainers: Sequence[Trainer], *, epochs: int, rounds: int = ROUNDS) -> dict:
    """Run trainers in turns.

    Args:
        trainers: of a table.
        epochs: of each run, the first of which is not counted.
        rounds: how often each trainer runs.

    Returns:
        By label: seconds per epoch (median, standard deviation), CPU seconds and MiB of the whole
        program (of kan-md's first process); ``frames`` and ``data`` say what was trained on.
    """
    found: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_frames(folder)
        for number in range(rounds):
            for place, trainer in enumerate(trainers):
                settings = folder / f"{place}.json"
                settings.write_text(json.dumps(trainer.settings(epochs)))
                work = folder / f"{place}-{number}"
                output = run_program(
                    *(RUNNER, trainer.program, settings, work),
                    what=trainer.label,
                    threads=trainer.threads,
                )
                found.setdefault(trainer.label, []).append(json.loads(last_line(output)))
    return {"data": data, "epochs": {label: _condense(runs) for label, runs in found.items()}}


def _condense(runs: Sequence[Mapping]) -> dict:
    seconds = [value for run in runs for value in run["epochs"]]
    return {
        "seconds": list(median_and_spread(seconds)),
        "cpu": min(run["cpu"] for run in runs),
        "peak": max(run["peak"] for run in runs),
    }


def write_frames(folder: Path) -> str:
    """Write train.xyz and val.xyz, and say what they hold."""
    given = os.environ.get("KAN_MD_DATA")
    path = Path(given) / FIRST_PRINCIPLES if given else None
    if path is not None and path.is_file():
        frames = ase.io.read(path, f":{TRAIN + VAL}")
        data = "HfO2, 96 atoms, labels of density functional theory"
    else:
        frames = [rattled_fluorite(seed) for seed in range(TRAIN + VAL)]
        data = "rattled HfO2 fluorite, 96 atoms, labels of a Lennard-Jones potential"
    ase.io.write(folder / "train.xyz", frames[:TRAIN])
    ase.io.write(folder / "val.xyz", frames[TRAIN:])
    return data


def rattled_fluorite(seed: int) -> Atoms:
    """96 atoms with energy, forces and stress of a pair potential."""
    atoms = bulk("HfO2", "fluorite", a=5.1, cubic=True) * (2, 2, 2)
    atoms.positions += np.random.default_rng(seed).normal(0.0, 0.1, atoms.positions.shape)
    atoms.calc = pair_potential()
    results = {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def pair_potential() -> LennardJones:
    """What labels the self-made frames."""
    return LennardJones(sigma=1.9, epsilon=0.05, rc=5.0, smooth=True)


def _nequip_settings(model: Mapping, epochs: int) -> dict:
    arguments = {key: value for key, value in model.items() if key != "backbone"}
    loader = {"_target_": "torch.utils.data.DataLoader", "batch_size": BATCH}
    files = ("train_file_path", "val_file_path")
    return {
        "run": ["train"],
        "data": {
            "_target_": "nequip.data.datamodule.ASEDataModule",
            "seed": 1,
            **dict(zip(files, ("../train.xyz", "../val.xyz"), strict=True)),
            "transforms": [
                {
                    "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
                    "model_type_names": list(TYPES),
                },
                {
                    "_target_": "nequip.data.transforms.NeighborListTransform",
                    "r_max": model["r_max"],
                },
            ],
            "train_dataloader": loader | {"shuffle": True},
            "val_dataloader": loader,
        },
        "trainer": {
            "_target_": "lightning.Trainer",
            "accelerator": "cpu",
            "max_epochs": epochs,
            "enable_progress_bar": False,
            "logger": {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "."},
            "callbacks": [
                {
                    "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "dirpath": ".",
                    "filename": "best",
                    "save_last": True,
                }
            ],
        },
        "training_module": {
            "_target_": "nequip.train.EMALightningModule",
            "loss": {"_target_": "nequip.train.EnergyForceStressLoss", "coeffs": _FORCES_FIRST},
            "val_metrics": {
                "_target_": "nequip.train.EnergyForceStressMetrics",
                "coeffs": _METRICS,
            },
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.002},
            "model": {
                **_UPSTREAM[model["backbone"]],
                "seed": 1,
                "model_dtype": "float32",
                "type_names": list(TYPES),
                "avg_num_neighbors": 47.0,
                "per_type_energy_scales": 1.0,
                "per_type_energy_shifts": dict.fromkeys(TYPES, -10.1),
                **arguments,
            },
        },
    }


def _mace_settings(model: Mapping, epochs: int) -> dict:
    given = {key: value for key, value in model.items() if key != "backbone"}
    return given | {
        "name": "run",
        "model": "MACE",
        "train_file": "../train.xyz",
        "valid_file": "../val.xyz",
        "E0s": "average",
        "energy_key": "energy",
        "forces_key": "forces",
        "stress_key": "stress",
        "compute_stress": True,
        "loss": "stress",
        "batch_size": BATCH,
        "valid_batch_size": BATCH,
        "max_num_epochs": epochs,
        "ema": "",
        "device": "cpu",
        "default_dtype": "float32",
        "seed": 1,
    }
