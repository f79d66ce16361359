"""Files that describe one model: a training configuration, or the keys of a model alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kan_md.backbones.build import ADAPTERS
from kan_md.config.load import parse_config
from kan_md.config.schema import TrainConfig
from kan_md.errors import user_error

_UNUSED = {"data": {"train": "-"}, "training": {"epochs": 1}}
"""Sections that say nothing of the architecture, for files that leave them out."""


@dataclass(frozen=True)
class ModelFile:
    """What a file says of a model.

    Attributes:
        backbone: architecture.
        arguments: those of :func:`kan_md.backbones.build.build_model` that the file decides.
        seed: of the weights; None where the file leaves it open.
    """

    backbone: str
    arguments: dict[str, object]
    seed: int | None


def read_model_file(content: Mapping[str, object]) -> ModelFile:
    """Take the model out of the content of a file.

    Args:
        content: sections as for `kan-md train`, of which ``data`` and ``training`` may be missing,
            or the keys of section ``model`` with ``readout`` beside them.

    Raises:
        KanMdError: a key or value is not allowed, or the file names no backbone.
    """
    if isinstance(content.get("model"), Mapping):
        return _of_config(parse_config({**_UNUSED, **content}), seeded="training" in content)
    arguments = dict(content)
    backbone = arguments.pop("backbone", None)
    if not isinstance(backbone, str) or backbone not in ADAPTERS:
        raise user_error(
            "model needs a backbone",
            found=backbone,
            allowed=", ".join(ADAPTERS),
            remedy="set backbone",
        )
    if "dtype" in arguments:
        if "model_dtype" in arguments:
            raise user_error(
                "dtype and model_dtype say the same",
                found=f"{arguments['dtype']}, {arguments['model_dtype']}",
                allowed="one of them",
                remedy="leave out model_dtype",
            )
        arguments["model_dtype"] = arguments.pop("dtype")
    return ModelFile(backbone, arguments, seed=arguments.pop("seed", None))


def _of_config(config: TrainConfig, *, seeded: bool) -> ModelFile:
    """What of it is known without data; statistics are the business of the training set."""
    model = config.model
    arguments: dict[str, object] = {
        "model_dtype": model.dtype,
        "r_max": model.r_max,
        "readout": config.readout.architecture.model_dump(mode="json"),
        **model.hyperparameters,
    }
    statistics = ("avg_num_neighbors", "per_type_energy_shifts", "per_type_energy_scales")
    for name in ("type_names", *statistics):
        value = getattr(model, name)
        if value is not None and not isinstance(value, str):
            arguments[name] = value
    arguments |= config.task.arguments
    return ModelFile(model.backbone, arguments, seed=config.training.seed if seeded else None)
