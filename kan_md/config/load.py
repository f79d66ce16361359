"""Reading a configuration file; every mistake in it becomes one line that names the key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from kan_md.backbones.build import adapter_of, upstream_names
from kan_md.config.from_source import complete_from_source
from kan_md.config.schema import ModelConfig, TrainConfig
from kan_md.config.yaml_file import parse_yaml, read_mapping
from kan_md.errors import user_error
from kan_md.validation import readable


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read and check a configuration file.

    Args:
        path: a YAML file; relative paths in it start at its folder.
        overrides: ``section.key=value`` settings that replace those of the file.

    Raises:
        KanMdError: the file is missing or no YAML, a key is unknown, or a value is not allowed.
    """
    content = read_content(path)
    for override in overrides:
        _override(content, override)
    return parse_config(content, base=Path(path).parent)


def read_content(path: str | Path) -> dict:
    """Read a configuration file without checking more than that it is a mapping.

    Raises:
        KanMdError: the file is missing or no YAML, or holds something else.
    """
    return read_mapping(path, keys=f"sections {', '.join(TrainConfig.model_fields)}")


def split_override(override: str) -> tuple[list[str], str]:
    """Parts of the key and text of the value of a ``section.key=value``.

    Raises:
        KanMdError: it is something else.
    """
    key, separator, text = override.partition("=")
    parts = key.split(".")
    if not separator or not all(parts):
        raise user_error(
            "a setting must look like section.key=value",
            found=repr(override),
            allowed=None,
            remedy="e.g. --set training.epochs=5",
        )
    return parts, text


def parse_config(content: Mapping, base: str | Path = ".") -> TrainConfig:
    """Check the content of a configuration file.

    With ``training.init_from`` it need not describe the model, see
    :func:`kan_md.config.from_source.complete_from_source`.

    Args:
        content: nested mappings as YAML gives them.
        base: folder at which relative paths start.

    Raises:
        KanMdError: a key is unknown or missing, or a value is not allowed.
    """
    content = complete_from_source(content, Path(base))
    try:
        config = TrainConfig.model_validate(content)
    except ValidationError as error:
        raise readable(error, TrainConfig) from error
    _check_hyperparameters(config.model)
    _check_targets(config)
    return _resolve_paths(config, Path(base))


def _override(content: dict, override: str) -> None:
    """Apply one ``section.key=value``."""
    parts, text = split_override(override)
    for part in parts[:-1]:
        content = content.setdefault(part, {})
        if not isinstance(content, dict):
            raise user_error(
                "a setting must name a key of a section",
                found=".".join(parts),
                allowed=None,
                remedy="correct it",
            )
    content[parts[-1]] = parse_yaml(text, source=f"--set {override}")


def _check_hyperparameters(model: ModelConfig) -> None:
    """Hold further keys of the model section against the upstream builder's arguments."""
    known = adapter_of(model.backbone).hyperparameters()
    for name in upstream_names(model.backbone, model.hyperparameters):
        if name not in known:
            own = list(dict.fromkeys([*ModelConfig.model_fields, *known]))
            near = difflib.get_close_matches(name, own, n=1)
            raise user_error(
                "unknown configuration key",
                found=f"model.{name}",
                allowed=", ".join(own),
                remedy=f"did you mean {near[0]}?" if near else "remove it",
            )


def _check_targets(config: TrainConfig) -> None:
    """Tensors are for tensor backbones, and these need some."""
    is_tensor_model = adapter_of(config.model.backbone).kind == "tensor"
    if is_tensor_model != bool(config.targets):
        raise user_error(
            f"section targets with model.backbone {config.model.backbone}",
            found=[target.name for target in config.targets] or "nothing",
            allowed="tensors for etgnn, nothing for potentials",
            remedy="add targets, e.g. [{name: bec}]" if is_tensor_model else "remove targets",
        )
    if is_tensor_model and not any(target.weight for target in config.targets):
        raise user_error(
            "weights of all targets",
            found="0",
            allowed="at least one > 0",
            remedy="change targets[].weight",
        )


def _resolve_paths(config: TrainConfig, base: Path) -> TrainConfig:
    """Let relative paths start at the folder of the configuration file."""

    def resolve(paths: list[Path] | None) -> list[Path] | None:
        return None if paths is None else [base / path.expanduser() for path in paths]

    parts = ("train", "val", "test", "replay")
    data = config.data.model_copy(
        update={part: resolve(getattr(config.data, part)) for part in parts}
    )
    training = config.training
    if training.init_from is not None:
        training = training.model_copy(update={"init_from": base / training.init_from.expanduser()})
    return config.model_copy(update={"data": data, "training": training})
