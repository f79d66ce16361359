"""From a configuration to datasets, statistics and the arguments of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ase import Atoms
from nequip.data import AtomicDataDict

from kan_md.backbones.arguments import STATISTICS
from kan_md.backbones.build import adapter_of, upstream_names
from kan_md.backbones.etgnn import default_triplet_r_max
from kan_md.config.schema import TrainConfig
from kan_md.data.checks import check_elements, check_labels, check_structures
from kan_md.data.dataset import FramesDataset, edge_lengths
from kan_md.data.label_report import source_of, sources_in_words
from kan_md.data.statistics import edge_statistics, types_of
from kan_md.data.survey import distances_of, make_survey
from kan_md.data.tensor_statistics import tensor_doubts, tensor_statistics
from kan_md.errors import user_error
from kan_md.model.checkpoint import Checkpoint, load_checkpoint
from kan_md.model.elements import elements_of
from kan_md.tasks.targets import Target
from kan_md.train.balanced_weights import balanced
from kan_md.train.finetune import check_source
from kan_md.train.metrics import (
    learned_names,
    unasked_losses,
    without_losses,
)
from kan_md.train.references import potential_statistics
from kan_md.train.structures import Note, Parts, grouped, read_parts


@dataclass(frozen=True)
class PreparedData:
    """Data ready for training.

    Attributes:
        config: what is learned, without labels that the data do not have.
        frames: structures by part; ``test`` may be empty.
        datasets: by part; parts without structures are absent.
        type_names: of the model.
        targets: all that the model predicts and the data have.
        labelled: by part, names of the targets that have labels there.
        notes: headings and texts of what was found and left out.
        statistics: of the training set.
    """

    config: TrainConfig
    frames: dict[str, list[Atoms]]
    datasets: dict[str, FramesDataset]
    type_names: list[str]
    targets: list[Target]
    labelled: dict[str, set[str]]
    notes: list[Note]
    statistics: dict[str, Any]

    @property
    def shown(self) -> set[str]:
        """Names of the targets whose errors are shown."""
        return set().union(*self.labelled.values())


def prepare_data(config: TrainConfig, *, resumed: Mapping[str, Any] | None = None) -> PreparedData:
    """Read, check and divide the data.

    Args:
        config: which, and what for.
        resumed: arguments of the model of a run that is gone on with; its types are settled.

    Raises:
        KanMdError: anything is wrong with them.
    """
    targets = config.task.targets
    learned = learned_names(config)
    parts = read_parts(config.data, config.model.r_max, [t for t in targets if t.name in learned])
    everything = [atoms for frames in parts.frames.values() for atoms in frames]
    config.task.check_labels(everything)
    for name in ("train", "val"):
        check_structures(parts.frames[name], f"{name} set")
    settled = _source_types(config) if resumed is None else resumed["type_names"]
    type_names = config.model.type_names or settled or types_of(parts.frames["train"])
    elements_of(type_names)  # raises now rather than when the model is saved
    for frames in parts.frames.values():
        check_elements(frames, type_names)
    config, notes = _without_absent_labels(config, parts, targets)
    labelled = {
        part: {target.name for target in targets if _has_any(frames, target)}
        for part, frames in parts.frames.items()
    }
    carried = [t for t in targets if any(t.name in names for names in labelled.values())]
    datasets = {
        name: FramesDataset(frames, config.model.r_max, type_names=type_names, targets=carried)
        for name, frames in parts.frames.items()
        if frames
    }
    notes += _odd_structures(config, parts, datasets)
    statistics = edge_statistics(datasets["train"])
    present = set(types_of(parts.frames["train"]))
    statistics["untrained_types"] = [name for name in type_names if name not in present]
    if config.targets:
        specs = config.task.specs
        statistics |= tensor_statistics(datasets["train"], specs, leg_r_max=_leg_r_max(config))
        notes += [
            ("warning", f"{text} (first {source_of(parts.frames['train'][index])})")
            for text, index in tensor_doubts(datasets["train"], specs)
        ]
    else:
        found, more = potential_statistics(config, parts, datasets["train"])
        statistics |= found
        config, weights = balanced(config, parts.frames["train"], datasets["train"])
        notes += more + weights
    return PreparedData(
        config=config,
        frames=parts.frames,
        datasets=datasets,
        type_names=list(type_names),
        targets=carried,
        labelled=labelled,
        notes=grouped(parts.notes + notes),
        statistics=statistics,
    )


def _odd_structures(
    config: TrainConfig, parts: Parts, datasets: Mapping[str, FramesDataset]
) -> list[Note]:
    """What of all sets deserves a second look."""
    frames, distances = [], []
    for part, dataset in datasets.items():
        frames += parts.frames[part]
        distances += [
            distances_of(
                atoms, edge_lengths(data).numpy(), data[AtomicDataDict.EDGE_INDEX_KEY].numpy()
            )
            for atoms, data in zip(parts.frames[part], dataset.data_list, strict=True)
        ]
    survey = make_survey(
        frames, config.model.r_max, isolated=parts.isolated["train"], distances=distances
    )
    notes = []
    for finding in survey.findings:
        if finding.kind in ("zero forces", "isolated atoms"):
            continue  # of crystals by symmetry; told elsewhere
        advice = "; data.max_force leaves them out" * (finding.kind == "force outliers")
        text = f"{finding.text} ({sources_in_words(finding.sources, most=3)}){advice}"
        if finding.kind.startswith("doubtful"):
            notes.append(("warning", f"{finding.kind}: {text}"))
        else:
            notes.append((finding.kind, text))
    return notes


def _has_any(frames: Sequence[Atoms], target: Target) -> bool:
    return any(target.label(atoms) is not None for atoms in frames)


def _without_absent_labels(
    config: TrainConfig, parts: Parts, targets: Sequence[Target]
) -> tuple[TrainConfig, list[Note]]:
    """Take labels that the training set does not have out of the loss, unless they are asked for.

    Raises:
        KanMdError: a label that the configuration names has no data, or there is none at all.
    """
    learned, frames = learned_names(config), parts.frames["train"]
    absent = {t.name for t in targets if t.name in learned and not _has_any(frames, t)}
    asked = absent - unasked_losses(config)
    everything = [atoms for found in parts.frames.values() for atoms in found]
    for what, some in (("data", everything), ("training set", frames)):
        check_labels(
            some,
            [target for target in targets if target.name in asked],
            what=what,
            report=parts.report,
            remedy=", or take it out of training.loss ({}: 0)" if not config.targets else "",
        )
    notes: list[Note] = []
    if absent:
        config = without_losses(config, absent)
        notes.append(
            ("loss", f"without {', '.join(sorted(absent))}: no structure has labels of it")
        )
    learned -= absent
    wanted = [target for target in targets if target.name in learned]
    if not wanted:
        check_labels(frames, targets, report=parts.report)
    complete = {"stress"} if config.data.missing_stress == "error" else set()
    check_labels(everything, wanted, complete=complete)
    for target in wanted:
        counts = {
            part: sum(target.label(atoms) is not None for atoms in found)
            for part, found in parts.frames.items()
        }
        some = [
            f"{count} of {len(parts.frames[part])} {part}"
            for part, count in counts.items()
            if count < len(parts.frames[part])
        ]
        if some:
            notes.append(("labels", f"{target.name} in {', '.join(some)} structures"))
        if not counts["val"]:
            text = f"no validation structure has {target.name}: the best epoch is chosen without"
            notes.append(("warning", text))
    return config, notes


def _leg_r_max(config: TrainConfig) -> float:
    """Cutoff of triplet legs, as the builder will have it."""
    given = config.model.hyperparameters.get("triplet_r_max")
    return default_triplet_r_max(config.model.r_max) if given is None else float(given)


def _source_types(config: TrainConfig) -> list[str] | None:
    """Types of the model that weights are taken from."""
    path = config.training.init_from
    return None if path is None else list(load_checkpoint(path, wanted="source").type_names)


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
    path, source = config.training.init_from, None
    if path is not None:
        source = load_checkpoint(path, wanted="source")
        check_source(source, path, backbone=model.backbone, type_names=data.type_names)
    if config.targets:
        # Made for the weights, like the statistics below: what is written in the file comes first,
        # then what the weights were made with.
        made = data.statistics if source is None else source.config["model"]
        names = ("avg_num_triplets", "type_shifts", "scales")
        arguments = {name: made[name] for name in names if name in made} | arguments
    arguments |= _statistics_arguments(config, data, source)
    return arguments | config.task.arguments


def given_statistics(config: TrainConfig) -> set[str]:
    """Names of the arguments that describe data and are written in the configuration.

    A word stands for a number that is worked out, or with ``training.init_from`` for that model's;
    ``zero`` alone says which.
    """
    model = config.model
    known = adapter_of(model.backbone).hyperparameters()
    written = {
        name: getattr(model, name, model.hyperparameters.get(name))
        for name in STATISTICS & known.keys()
    }
    return {
        name
        for name, value in written.items()
        if value == "zero" or not (value is None or isinstance(value, str))
    }


def _statistics_arguments(
    config: TrainConfig, data: PreparedData, source: Checkpoint | None
) -> dict[str, Any]:
    model, statistics = config.model, data.statistics
    known = adapter_of(model.backbone).hyperparameters()
    automatic: dict[str, Any] = {"avg_num_neighbors": statistics["avg_num_neighbors"]}
    if "per_type_energy_shifts" in known:
        automatic["per_type_energy_shifts"] = statistics["reference_energies"]
        automatic["per_type_energy_scales"] = statistics["forces_rms"]
    if source is not None:
        automatic |= {
            name: value for name, value in source.config["model"].items() if name in automatic
        }
    given = {name: getattr(model, name) for name in automatic if name in given_statistics(config)}
    if given.get("per_type_energy_shifts") == "zero":
        given["per_type_energy_shifts"] = dict.fromkeys(data.type_names, 0.0)
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
