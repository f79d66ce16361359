"""Deployed files whose manifest says something else."""

import zipfile
from collections.abc import Callable
from pathlib import Path

from kan_md.contract import MANIFEST_KEY
from kan_md_deploy.archive import SEAL_KEY, seal


def with_manifest(source: Path, path: Path, change: Callable[[str], str]) -> Path:
    """Copy a deployed file with the text of its manifest changed, and seal the copy."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(MANIFEST_KEY):
                content = change(content.decode()).encode()
            if not name.endswith(SEAL_KEY):
                new.writestr(name, content)
    seal(path)
    return path


def as_of_before(text: str) -> str:
    """The manifest as it was before it had a format number and named the operators."""
    new_keys = ("format_version=", "operators=")
    return "".join(line for line in text.splitlines(True) if not line.startswith(new_keys))


def calling_another(text: str) -> str:
    """The same file calling an operator that nobody has."""
    assert "\noperators=kan_md::" in text
    return text.replace("\noperators=", "\noperators=kan_md::of_tomorrow ")
