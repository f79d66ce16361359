"""From a configuration to datasets, statistics and the arguments of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ase import Atoms
from nequip.data import AtomicDataDict

from kan_md.backbones.arguments import STATISTICS
from kan_md.backbones.build import adapter_of, upstream_names
from kan_md.config.schema import TrainConfig
from kan_md.data.checks import check_elements, check_labels, check_structures
from kan_md.data.dataset import FramesDataset, edge_lengths
from kan_md.data.graph_store import GIGABYTE
from kan_md.data.label_report import sources_in_words
from kan_md.data.statistics import edge_statistics, types_of
from kan_md.data.survey import distances_of, make_survey
from kan_md.errors import user_error
from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.elements import elements_of
from kan_md.tasks.targets import Target
from kan_md.train.finetune import check_source, load_source
from kan_md.train.learning import learning_of
from kan_md.train.metrics import (
    learned_names,
    unasked_losses,
    without_losses,
)
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
    learning, learned = learning_of(config), learned_names(config)
    parts = read_parts(
        config.data,
        [target for target in targets if target.name in learned],
        sort_out=lambda parts: learning.sort_out(parts, config.data, config.model.r_max),
    )
    everything = [atoms for frames in parts.frames.values() for atoms in frames]
    config.task.check_labels(everything)
    for name in ("train", "val"):
        check_structures(parts.frames[name], f"{name} set")
    settled = _source_types(config, parts) if resumed is None else resumed["type_names"]
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
        name: FramesDataset(
            frames,
            config.model.r_max,
            type_names=type_names,
            targets=carried,
            memory=config.data.graph_memory * GIGABYTE * len(frames) / len(everything),
        )
        for name, frames in parts.frames.items()
        if frames
    }
    notes += _odd_structures(config, parts, datasets)
    statistics = edge_statistics(datasets["train"])
    present = set(types_of(parts.frames["train"]))
    statistics["untrained_types"] = [name for name in type_names if name not in present]
    config, found, more = learning.study(config, parts, datasets["train"])
    statistics |= found
    notes += more
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
            remedy=f", or set {learning_of(config).weight_key}: 0" * (len(learned) > 1),
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


def _source_types(config: TrainConfig, parts: Parts) -> list[str] | None:
    """Types of the model that weights are taken from; potentials get those that are new here."""
    path = config.training.init_from
    if path is None:
        return None
    there = list(load_checkpoint(path, wanted="source").type_names)
    here = types_of(parts.frames["train"]) if config.task.is_differentiated else []
    return [*there, *(name for name in here if name not in there)]


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
        new = [name for name in data.type_names if name not in source.type_names]
        source = load_source(path, data.type_names) if new else source
    found = learning_of(config).arguments(data.statistics)
    found["avg_num_neighbors"] = data.statistics["avg_num_neighbors"]
    if source is not None:  # whose weights were made for these numbers, or for those by default
        theirs = source.config["model"]
        known = {name: theirs[name] for name in found if name in theirs}
        for name, by_type in known.items():
            if name == "per_type_energy_shifts" and isinstance(by_type, Mapping):
                known[name] = {**by_type, **{n: found[name][n] for n in new}}
        found = known
    return found | arguments | _given_statistics(config, data) | config.task.arguments


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


def _given_statistics(config: TrainConfig, data: PreparedData) -> dict[str, Any]:
    """Of those with a key of their own in section model."""
    names = given_statistics(config) & type(config.model).model_fields.keys()
    given = {name: getattr(config.model, name) for name in names}
    if given.get("per_type_energy_shifts") == "zero":
        given["per_type_energy_shifts"] = dict.fromkeys(data.type_names, 0.0)
    _check_per_type(given, data.type_names)
    return given


def _check_per_type(given: Mapping[str, Any], type_names: Sequence[str]) -> None:
    for name, value in given.items():
        if isinstance(value, Mapping) and set(value) != set(type_names):
            raise user_error(
                f"model.{name}",
                found=", ".join(value) or "nothing",
                allowed=f"one number for each of {', '.join(type_names)}",
                remedy=f"change model.{name}",
            )
