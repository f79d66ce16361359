"""Reading YAML that people write: every mistake in it is one line with its place."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from kan_md.errors import user_error
from kan_md.model.file_kind import recognise


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen and isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value} is there twice", key_node.start_mark
                )
            seen.add(key_node.value if isinstance(key_node, yaml.ScalarNode) else id(key_node))
        return super().construct_mapping(node, deep=deep)


def read_mapping(path: str | Path, *, keys: str) -> dict[str, Any]:
    """Read a file that holds a mapping.

    Args:
        path: of the file.
        keys: what the mapping may hold, for the message.

    Raises:
        KanMdError: the file is missing, no YAML, or something else than a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise user_error(
            "configuration file not found", found=path, allowed=None, remedy="check its path"
        )
    try:
        content = parse_yaml(path.read_text(), source=path)
    except UnicodeDecodeError as error:
        raise user_error(
            f"{path} is no YAML file",
            found=recognise(path).what,
            allowed=None,
            remedy="give a configuration; the README has an example",
        ) from error
    if not isinstance(content, dict):
        raise user_error(
            f"{path} must hold a mapping, lines of `key: value`",
            found="nothing" if content is None else f"a {type(content).__name__}",
            allowed=keys,
            remedy="see the example in the README",
        )
    return content


def parse_yaml(text: str, *, source: object) -> Any:
    """Parse YAML text.

    Args:
        text: to be parsed.
        source: where it is from, for the message.

    Raises:
        KanMdError: it is no YAML.
    """
    try:
        return yaml.load(text, _UniqueKeys)  # a SafeLoader
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
        raise user_error(
            f"{source} is no YAML",
            found=f"{problem}{place}",
            allowed=None,
            remedy="indent with spaces instead of tabs" if "\\t" in problem else "correct it",
        ) from error
