"""When two configurations are the same run: the same content, wherever the data lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from kan_md.config.schema import TrainConfig
from kan_md.data.reading import matching_files
from kan_md.errors import user_error

PARTS = ("train", "val", "test", "replay")
WITHOUT_EFFECT = {
    "data": ["graph_memory"],
    "training": [
        *("device", "devices", "num_nodes", "threads", "form", "loggers", "reference_frames"),
    ],
}
"""Where and how fast a run is done, not what comes out of it but for the order of sums."""
_LATER = {"data": ["replay", "replay_size"]}
"""Keys that came when there were runs already: without a value they leave a run what it was."""


def canonical(config: TrainConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """A configuration without anything of the machine.

    Args:
        config: checked; its paths must exist.

    Returns:
        Nested plain data in which files are digests of their content, every default written out;
        and the digests by the files' names.

    Raises:
        KanMdError: a file is missing.
    """
    content = config.model_dump(mode="json")
    for section, keys in WITHOUT_EFFECT.items():
        for key in keys:
            del content[section][key]
    for section, keys in _LATER.items():
        for key in keys:
            if content[section][key] is None:
                del content[section][key]
    files: dict[str, str] = {}
    for part in PARTS:
        paths = getattr(config.data, part)
        if paths is not None:
            found = [file for path in paths for file in matching_files(path)]
            content["data"][part] = [_digest_of(path) for path in found]
            files |= {path.name: _digest_of(path) for path in found}
    if config.training.init_from is not None:
        content["training"]["init_from"] = _digest_of(config.training.init_from)
    return content, files


_BEFORE: Mapping[tuple[str, ...], Any] = {
    ("readout", "fit_grid", "every"): None,
    ("readout", "fit_grid", "until"): 0.8,
}
"""What versions did that did not know a key, where its default now is something else."""


def digest(content: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for plain data."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def is_same(recorded: Mapping[str, Any], wanted: Mapping[str, Any], config: TrainConfig) -> bool:
    """Whether a run that was recorded, maybe by an earlier version, is the wanted one.

    Keys that the earlier version did not know must be left to their defaults now, or say what that
    version did.

    Args:
        recorded: canonical configuration of then.
        wanted: canonical configuration of now.
        config: of which that is.
    """
    old, new = dict(_leaves(recorded)), dict(_leaves(wanted))
    if any(key not in new or new[key] != value for key, value in old.items()):
        return False
    later = new.keys() - old.keys()
    given = dict(_leaves(config.model_dump(mode="json", exclude_defaults=True)))
    return all(new[key] == _BEFORE[key] if key in _BEFORE else key not in given for key in later)


def _leaves(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(content, Mapping) and content:
        for key, value in content.items():
            yield from _leaves(value, (*path, str(key)))
    else:
        yield path, content


def _digest_of(path: Path) -> str:
    """Digest of a file, or of all files of a folder (LMDB)."""
    if not path.exists():
        raise user_error(f"file {path}", found="nothing", allowed=None, remedy="check the path")
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    stats = [(file, file.stat()) for file in files]
    return _digest_of_files(tuple((file, s.st_size, s.st_mtime_ns) for file, s in stats))


@lru_cache(maxsize=256)
def _digest_of_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    total = hashlib.sha256()
    for file, _, _ in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return f"sha256:{total.hexdigest()[:16]}"
