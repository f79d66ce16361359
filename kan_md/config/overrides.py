"""Settings of the command line, which a resumed run remembers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kan_md.config.load import read_content, split_override
from kan_md.config.yaml_file import parse_yaml

_ABSENT = "(absent)"


def record_settings(path: str | Path, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Plain data to keep with a run.

    Args:
        path: the configuration file.
        overrides: ``section.key=value``, in order; a later one of the same key replaces.

    Returns:
        ``key``, ``text`` and what the ``file`` says in its place, for each.
    """
    content = read_content(path)
    found = {}
    for override in overrides:
        parts, text = split_override(override)
        key = ".".join(parts)
        found[key] = {"key": key, "text": text, "file": _value(content, parts)}
    return list(found.values())


def kept_overrides(
    path: str | Path, settings: Sequence[Mapping[str, Any]], overrides: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Settings of earlier commands that still hold for a resumed run.

    Those that are given anew do not, nor those whose place in the file has changed since: what was
    said last counts.

    Args:
        path: the configuration file of now.
        settings: what :func:`record_settings` gave.
        overrides: of now.

    Returns:
        Overrides to put before those of now, and lines to show.
    """
    content = read_content(path)
    new = [split_override(override)[0] for override in overrides]
    kept, notes = [], []
    for setting in settings:
        parts = setting["key"].split(".")
        if any(_is_beginning(parts, other) or _is_beginning(other, parts) for other in new):
            continue
        now = _value(content, parts)
        text = f"--set {setting['key']}={setting['text']}"
        if now == setting["file"]:
            kept.append(f"{setting['key']}={setting['text']}")
            notes.append(f"as before: {text}")
        elif now != parse_yaml(setting["text"], source=text):
            notes.append(f"no longer, since the file says {now}: {text}")
    return kept, notes


def _value(content: object, parts: Sequence[str]) -> object:
    for part in parts:
        if not isinstance(content, Mapping) or part not in content:
            return _ABSENT
        content = content[part]
    return content


def _is_beginning(one: Sequence[str], other: Sequence[str]) -> bool:
    return list(other[: len(one)]) == list(one)
