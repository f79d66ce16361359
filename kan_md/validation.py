"""Mistakes that pydantic finds, as one line that names the key."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from types import UnionType
from typing import Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from kan_md.errors import KanMdError, user_error

_KINDS = {
    "tuple_type": "list",
    "too_short": "list of {min_length} or more",
    "too_long": "list of {max_length} at most",
    "model_type": "mapping",
    "dict_type": "mapping",
    "path_type": "path",
}
"""What pydantic wants, in words of YAML, where its own are those of Python."""


def readable(
    error: ValidationError, section: type[BaseModel], *, within: Sequence[str] = ()
) -> KanMdError:
    """The first complaint of pydantic as one line: key, value, allowed values, nearest key.

    Args:
        error: what was raised.
        section: what was validated.
        within: keys of the sections around it.
    """
    # A misspelt key often makes another one missing, and is the cause.
    complaints = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    first = complaints[0]
    names = [str(part) for part in first["loc"] if not _is_union_branch(part)]
    key = ".".join([*within, *names])
    context = first.get("ctx", {})
    if first["type"] == "extra_forbidden":
        known = _known_keys(section, first["loc"][:-1])
        return user_error(
            "unknown configuration key",
            found=key,
            allowed=", ".join(known),
            remedy=_remedy_of_unknown(section, names, known),
        )
    if first["type"] == "missing" and isinstance(first["loc"][-1], int):  # of a list
        key = key.rpartition(".")[0]
        return user_error(
            f"configuration key {key}",
            found=_short(first["input"]),
            allowed="more values",
            remedy=f"change {key}",
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


def _remedy_of_unknown(section: type[BaseModel], names: list[str], known: list[str]) -> str:
    """The key that was meant: one spelt alike, or one of that name in a section."""
    near = difflib.get_close_matches(names[-1], known, n=1)
    if near:
        return f"did you mean {near[0]}?"
    homes = [name for name in known if names == [names[-1]] and _has_key(section, name, names[-1])]
    return f"did you mean {homes[0]}.{names[-1]}?" if homes else "remove it"


def _has_key(section: type[BaseModel], part: str, name: str) -> bool:
    inner = _section_in(section.model_fields[part].annotation)
    return inner is not None and name in inner.model_fields


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
    context, kind = complaint.get("ctx", {}), complaint["type"]
    if "expected" in context:
        return str(context["expected"])
    if kind in _KINDS:
        return _KINDS[kind].format(**context)
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


def _known_keys(section: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Keys of the section at a place in the configuration."""
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
