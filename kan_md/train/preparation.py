"""From a configuration to datasets, statistics and the arguments of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from kan_md.backbones.build import adapter_of, upstream_names
from kan_md.backbones.etgnn import default_triplet_r_max
from kan_md.config.schema import DataConfig, TrainConfig
from kan_md.data.checks import check_elements, check_labels, check_structures
from kan_md.data.dataset import FramesDataset
from kan_md.data.reading import read_frames
from kan_md.data.splitting import PARTS, split_indices
from kan_md.data.statistics import edge_statistics, forces_rms, reference_energies, types_of
from kan_md.data.targets import Target
from kan_md.data.tensor_labels import check_tensor_labels, tensor_statistics
from kan_md.errors import user_error
from kan_md.model.checkpoint import Checkpoint, load_checkpoint
from kan_md.model.elements import elements_of
from kan_md.train.metrics import learned_names, targets_of, tensors_of


@dataclass(frozen=True)
class PreparedData:
    """Data ready for training.

    Attributes:
        frames: structures by part; ``test`` may be empty.
        datasets: by part; parts without structures are absent.
        type_names: of the model.
        targets: all that the model predicts.
        shown: names of the targets whose errors can be shown, because every structure has them.
        left_out: structures dropped because of ``data.max_force``.
        statistics: of the training set.
    """

    frames: dict[str, list[Atoms]]
    datasets: dict[str, FramesDataset]
    type_names: list[str]
    targets: list[Target]
    shown: set[str]
    left_out: int
    statistics: dict[str, Any]


def prepare_data(config: TrainConfig) -> PreparedData:
    """Read, check and divide the data.

    Raises:
        KanMdError: anything is wrong with them.
    """
    parts = _read_parts(config.data)
    targets = targets_of(config)
    learned = learned_names(config)
    everything = [atoms for frames in parts.values() for atoms in frames]
    check_structures(everything, "data")
    required = [t for t in targets if t.name in learned or t.name in ("energy", "forces")]
    optional = {"stress"} if config.data.missing_stress == "mask" else set()
    specs = tensors_of(config)
    check_tensor_labels(everything, specs)
    check_labels(everything, required, optional=optional)
    parts, left_out = _drop_large_forces(parts, config.data.max_force)
    parts = _divide(parts, config.data)
    for name in ("train", "val"):
        check_structures(parts[name], f"{name} set")
    type_names = config.model.type_names or _source_types(config) or types_of(parts["train"])
    elements_of(type_names)  # raises now rather than when the model is saved
    for frames in parts.values():
        check_elements(frames, type_names)
    shown = {
        target.name
        for target in targets
        if all(target.label(atoms) is not None for atoms in everything)
    }
    carried = [target for target in targets if target.name in shown | learned]
    datasets = {
        name: FramesDataset(frames, config.model.r_max, type_names=type_names, targets=carried)
        for name, frames in parts.items()
        if frames
    }
    statistics = edge_statistics(datasets["train"])
    if specs:
        statistics |= tensor_statistics(datasets["train"], specs, leg_r_max=_leg_r_max(config))
    else:
        statistics["reference_energies"] = reference_energies(datasets["train"])
        statistics["forces_rms"] = forces_rms(datasets["train"])
    return PreparedData(
        frames=parts,
        datasets=datasets,
        type_names=list(type_names),
        targets=carried,
        shown=shown | learned,
        left_out=left_out,
        statistics=statistics,
    )


def _leg_r_max(config: TrainConfig) -> float:
    """Cutoff of triplet legs, as the builder will have it."""
    given = config.model.hyperparameters.get("triplet_r_max")
    return default_triplet_r_max(config.model.r_max) if given is None else float(given)


def _read_parts(data: DataConfig) -> dict[str, list[Atoms]]:
    keys = data.keys.model_dump()
    return {
        part: read_frames(paths, keys)
        for part in ("train", "val", "test")
        if (paths := getattr(data, part)) is not None
    }


def _drop_large_forces(
    parts: dict[str, list[Atoms]], max_force: float | None
) -> tuple[dict[str, list[Atoms]], int]:
    if max_force is None:
        return parts, 0
    kept = {
        part: [atoms for atoms in frames if np.abs(atoms.calc.results["forces"]).max() <= max_force]
        for part, frames in parts.items()
    }
    return kept, sum(map(len, parts.values())) - sum(map(len, kept.values()))


def _divide(parts: dict[str, list[Atoms]], data: DataConfig) -> dict[str, list[Atoms]]:
    """Take what has no file of its own from the training frames."""
    split = data.split
    frames = parts["train"]
    if not data.divided:
        return {part: parts.get(part, []) for part in PARTS}
    if len(frames) < 2:
        raise user_error(
            "too few structures to divide into training and validation",
            found=len(frames),
            allowed=">= 2",
            remedy="give more structures or data.val",
        )
    indices = split_indices(
        len(frames), _sizes(data), method=split.method, seed=split.seed, blocks=split.blocks
    )
    divided = {part: [frames[i] for i in chosen] for part, chosen in indices.items()}
    found = {"test": [], **parts, **divided}
    return {part: found[part] for part in PARTS}


def _sizes(data: DataConfig) -> dict[str, float | None]:
    """What ``split`` asks of the training frames; a part with a file does not count."""
    sizes = {part: getattr(data.split, part) for part in PARTS}
    filed = [sizes[part] for part in PARTS if part not in data.divided]
    left = 1.0 - sum(size for size in filed if isinstance(size, float))
    return {
        part: min(1.0, sizes[part] / left) if isinstance(sizes[part], float) else sizes[part]
        for part in data.divided
    }


def _source_types(config: TrainConfig) -> list[str] | None:
    """Types of the model that weights are taken from."""
    path = config.training.init_from
    return None if path is None else list(load_checkpoint(path).type_names)


def model_arguments(config: TrainConfig, data: PreparedData) -> dict[str, Any]:
    """Arguments of :func:`kan_md.backbones.build.build_model`, plain values only.

    Statistics that are not given come from the training set, or from ``training.init_from``, whose
    weights were made for its own.
    """
    model = config.model
    arguments: dict[str, Any] = {
        "seed": config.training.seed,
        "model_dtype": model.dtype,
        "type_names": data.type_names,
        "r_max": model.r_max,
        "readout": config.readout.architecture.model_dump(mode="json"),
        **upstream_names(model.backbone, model.hyperparameters),
    }
    source = (
        None if config.training.init_from is None else load_checkpoint(config.training.init_from)
    )
    if config.targets:
        # Made for the weights, like the statistics below: what is written in the file comes first,
        # then what the weights were made with.
        made = data.statistics if source is None else source.config["model"]
        names = ("avg_num_triplets", "type_shifts", "scales")
        arguments = {name: made[name] for name in names if name in made} | arguments
    arguments |= _statistics_arguments(config, data, source)
    if config.targets:
        arguments["tensors"] = [spec.model_dump(mode="json") for spec in tensors_of(config)]
    return arguments


def _statistics_arguments(
    config: TrainConfig, data: PreparedData, source: Checkpoint | None
) -> dict[str, Any]:
    model, statistics = config.model, data.statistics
    known = adapter_of(model.backbone).hyperparameters()
    automatic: dict[str, Any] = {"avg_num_neighbors": statistics["avg_num_neighbors"]}
    if "per_type_energy_shifts" in known:
        shifts = model.per_type_energy_shifts
        automatic["per_type_energy_shifts"] = (
            dict.fromkeys(data.type_names, 0.0)
            if shifts == "zero"
            else statistics["reference_energies"]
        )
        automatic["per_type_energy_scales"] = statistics["forces_rms"]
    if source is not None:
        automatic |= {
            name: value for name, value in source.config["model"].items() if name in automatic
        }
    given = {
        name: getattr(model, name)
        for name in automatic
        if not isinstance(getattr(model, name), str)
    }
    _check_per_type(given, data.type_names)
    return automatic | given


def _check_per_type(given: Mapping[str, Any], type_names: Sequence[str]) -> None:
    for name, value in given.items():
        if isinstance(value, Mapping) and set(value) != set(type_names):
            raise user_error(
                f"model.{name}",
                found=", ".join(value) or "nothing",
                allowed=f"one number for each of {', '.join(type_names)}",
                remedy=f"change model.{name}",
            )
