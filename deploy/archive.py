"""Reading and sealing deployed files as the zip archives that they are, without torch.

TorchScript files and AOTInductor packages are both zip archives. Their readers do not check the
stored checksums, so a damaged weight would run. A sealed file carries the sha256 of everything else
in it.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

from kan_md.contract import MANIFEST_KEY, Manifest
from kan_md.errors import KanMdError, user_error
from kan_md.model.file_kind import DEPLOYED, recognise, wrong_file

SEAL_KEY = "kan_md_seal"
_CALLS = {
    "code/": re.compile(rb"\bops\.kan_md\.(\w+)"),
    "data/aotinductor/": re.compile(rb"\bkan_md::([a-z_0-9]+)"),
}
"""How TorchScript's code and AOTInductor's packages name the operators, by a part of their path."""


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a deployed file and check the file against its seal.

    Raises:
        KanMdError: the file is missing, is not a deployed kan-md model, or was changed.
    """
    if not Path(path).exists():
        raise _missing(path)
    kind = recognise(path)
    if kind.name not in (*DEPLOYED, "truncated", "damaged"):
        other = replace(kind, what=f"a file of another kind: {kind.what}")
        raise wrong_file(path, "deployed", kind=other)
    try:
        with zipfile.ZipFile(path) as archive:
            entry = _find(archive, MANIFEST_KEY)
            if entry is None:
                raise zipfile.BadZipFile("no manifest")
            seal = _find(archive, SEAL_KEY)
            found = "no seal" if seal is None else archive.read(seal).decode()
            expected = _digest(archive)
            text = archive.read(entry).decode()
    except (zipfile.BadZipFile, zlib.error, UnicodeDecodeError, OSError, EOFError) as error:
        raise user_error(
            f"cannot read {path} as a deployed model",
            found=f"a file that is truncated, damaged or of another kind ({error})",
            allowed=None,
            remedy="copy it again or run `kan-md deploy model.pth`",
        ) from error
    if found != expected:
        raise user_error(
            f"{path} was changed after it was deployed",
            found=f"seal {found[:12]}",
            allowed=expected[:12],
            remedy="run `kan-md deploy model.pth` again",
        )
    try:
        return Manifest.from_text(text)
    except KanMdError as error:
        raise KanMdError(f"{path}: {error}") from error


def operators_in(path: Path) -> tuple[str, ...]:
    """Operators of the project's own that the compiled code of a file calls, with namespace."""
    found: set[bytes] = set()
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            for part, call in _CALLS.items():
                if part in name:
                    found.update(call.findall(archive.read(name)))
    return tuple(sorted(f"kan_md::{name.decode()}" for name in found))


def seal(path: Path) -> None:
    """Add to a zip archive the sha256 of its other entries."""
    with zipfile.ZipFile(path, "a", compression=zipfile.ZIP_STORED) as archive:
        manifest = _find(archive, MANIFEST_KEY)
        assert manifest is not None, "seal a file that has its manifest"
        folder = manifest[: -len(MANIFEST_KEY)]
        archive.writestr(folder + SEAL_KEY, _digest(archive))


def sha256_of(path: Path) -> str:
    """Hash a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _digest(archive: zipfile.ZipFile) -> str:
    total = hashlib.sha256()
    for name in sorted(archive.namelist()):
        if not name.endswith("/" + SEAL_KEY) and name != SEAL_KEY:
            total.update(f"{name}\0{archive.getinfo(name).file_size}\0".encode())
            total.update(archive.read(name))
    return total.hexdigest()


def _find(archive: zipfile.ZipFile, key: str) -> str | None:
    return next((n for n in archive.namelist() if n == key or n.endswith("/" + key)), None)


def _missing(path: Path) -> KanMdError:
    return user_error(
        "deployed model not found", found=path, allowed=None, remedy="run `kan-md deploy model.pth`"
    )
