"""Reading a configuration file; every mistake in it becomes one line that names the key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from kan_md.backbones.build import adapter_of, upstream_names
from kan_md.config.schema import ModelConfig, TrainConfig
from kan_md.config.yaml_file import parse_yaml, read_mapping
from kan_md.errors import KanMdError, user_error


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

    Args:
        content: nested mappings as YAML gives them.
        base: folder at which relative paths start.

    Raises:
        KanMdError: a key is unknown or missing, or a value is not allowed.
    """
    try:
        config = TrainConfig.model_validate(content)
    except ValidationError as error:
        raise _readable(error) from error
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


def _readable(error: ValidationError) -> KanMdError:
    """The first complaint of pydantic as one line: key, value, allowed values, nearest key."""
    # A misspelt key often makes another one missing, and is the cause.
    complaints = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    first = complaints[0]
    names = [str(part) for part in first["loc"] if not _is_union_branch(part)]
    key = ".".join(names)
    context = first.get("ctx", {})
    if first["type"] == "extra_forbidden":
        known = _known_keys(first["loc"][:-1])
        return user_error(
            "unknown configuration key",
            found=key,
            allowed=", ".join(known),
            remedy=_remedy_of_unknown(names, known),
        )
    if first["type"] == "missing":
        return user_error(
            f"configuration key {key}", found="nothing", allowed=None, remedy=f"add {key}"
        )
    if first["type"] == "value_error":
        message = str(context.get("error", first["msg"]))
        if ", got " in message:  # keys that do not go together
            return KanMdError(f"{key}: {message}; change {key}")
        return user_error(
            f"{key}: {message}", found=_short(first["input"]), allowed=None, remedy=f"change {key}"
        )
    same = [item for item in complaints if _same_key(item["loc"], first["loc"])]
    allowed = " or ".join(dict.fromkeys(_allowed(item) for item in same))
    near = _nearest_choice(first["input"], [str(item.get("ctx", {})) for item in same])
    return user_error(
        f"configuration key {key}",
        found=_short(first["input"]),
        allowed=allowed,
        remedy=f"did you mean {near}?" if near else f"change {key}",
    )


def _remedy_of_unknown(names: list[str], known: list[str]) -> str:
    """The key that was meant: one spelt alike, or one of that name in a section."""
    near = difflib.get_close_matches(names[-1], known, n=1)
    if near:
        return f"did you mean {near[0]}?"
    homes = [section for section in known if names == [names[-1]] and _has_key(section, names[-1])]
    return f"did you mean {homes[0]}.{names[-1]}?" if homes else "remove it"


def _has_key(section: str, name: str) -> bool:
    return name in _known_keys([section]) if section in TrainConfig.model_fields else False


def _is_union_branch(part: object) -> bool:
    """Whether pydantic put the name of a type, not of a key, into the path of an error."""
    return isinstance(part, str) and (
        "[" in part or part in {"float", "int", "constrained-float", "constrained-int"}
    )


def _same_key(one: tuple, other: tuple) -> bool:
    return [part for part in one if not _is_union_branch(part)] == [
        part for part in other if not _is_union_branch(part)
    ]


def _allowed(complaint: dict) -> str:
    """What pydantic would have taken."""
    context = complaint.get("ctx", {})
    if "expected" in context:
        return str(context["expected"])
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = [f"{signs[name]} {value:g}" for name, value in context.items() if name in signs]
    if bounds:
        return " and ".join(bounds)
    message = complaint["msg"].removeprefix("Input should be ").partition(",")[0]
    return message.removeprefix("a ").removeprefix("valid ")


def _nearest_choice(value: object, contexts: Sequence[str]) -> str | None:
    """The listed choice that is spelt most like what was given."""
    choices = [word.strip("',} ") for text in contexts for word in text.split("'")]
    near = difflib.get_close_matches(str(value), [word for word in choices if word.isidentifier()])
    return near[0] if near else None


def _known_keys(location: Sequence[int | str]) -> list[str]:
    """Keys of the section at a place in the configuration."""
    section: type[BaseModel] = TrainConfig
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _section_in(annotation: object) -> type[BaseModel] | None:
    """The section inside an annotation like ``list[Section] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (list, Union, UnionType):
        found = [_section_in(argument) for argument in get_args(annotation)]
        return next((section for section in found if section), None)
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


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

    parts = ("train", "val", "test")
    data = config.data.model_copy(
        update={part: resolve(getattr(config.data, part)) for part in parts}
    )
    training = config.training
    if training.init_from is not None:
        training = training.model_copy(update={"init_from": base / training.init_from.expanduser()})
    return config.model_copy(update={"data": data, "training": training})
