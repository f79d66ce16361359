"""The file that is written: it appears whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kan_md.contract import Backend, Manifest
from kan_md.errors import KanMdError, user_error
from kan_md_deploy.archive import seal

SUFFIX = {"torchscript": ".deployed.pth", "aotinductor": ".deployed.pt2"}


def output_path(model_path: Path, output: str | Path | None, backend: Backend) -> Path:
    """Where a deployed model goes; beside the trained one where nothing is said.

    Raises:
        KanMdError: it would replace the trained model.
    """
    if output is None:
        return model_path.with_name(model_path.stem + SUFFIX[backend])
    output = Path(output)
    if output.resolve() == model_path.resolve():
        raise user_error(
            "output would overwrite the trained model",
            found=output,
            allowed=None,
            remedy="choose another -o",
        )
    return output


@contextmanager
def written_whole(output: Path) -> Iterator[Path]:
    """A temporary file beside ``output`` that takes its place unless something is raised.

    Raises:
        KanMdError: there can be no such file; said before any work is spent on it.
    """
    temporary = _temporary_beside(output)
    try:
        yield temporary
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


def write_judged(
    path: Path,
    write: Callable[..., None],
    manifest: Manifest,
    judge: Callable[[Path], Manifest],
) -> None:
    """Write a sealed file, judge the file itself, and write it again with what was found.

    Args:
        path: file to write; left unfinished where ``judge`` raises.
        write: puts the compiled model into a file, with ``manifest``, a text.
        manifest: what is known before.
        judge: loads the file, refuses it, or completes its manifest.
    """
    write(path, manifest=manifest.to_text())
    seal(path)
    measured = judge(path)
    write(path, manifest=measured.to_text())
    seal(path)


def _temporary_beside(output: Path) -> Path:
    try:
        if output.is_dir():
            raise IsADirectoryError(21, "a folder")
        output.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=output.parent, prefix=f".{output.stem}.", suffix=output.suffix
        )
        os.close(handle)
        Path(name).chmod(0o644)  # mkstemp's own choice keeps everyone else out
    except FileExistsError as error:
        raise _cannot_write(output, f"{error.filename}, which is no folder") from error
    except OSError as error:
        raise _cannot_write(output, error.strerror) from error
    return Path(name)


def _cannot_write(output: Path, found: str | None) -> KanMdError:
    return KanMdError(f"cannot write {output}, got {found}; choose another -o")
