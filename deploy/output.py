"""The file that is written: where it goes, and that it is judged before it appears."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kan_md.contract import Backend, Manifest
from kan_md.errors import KanMdError, user_error
from kan_md_deploy.archive import operators_in, read_manifest, seal, sha256_of

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


def check_replaceable(output: Path, model_path: Path) -> None:
    """Refuse to replace anything but an earlier file of the same trained model.

    Raises:
        KanMdError: there is something else, or something that cannot be read.
    """
    if not output.is_file():
        return
    try:
        made_from = read_manifest(output).model_sha256
    except KanMdError:
        found = "an existing file that was not deployed by kan-md, or is damaged"
    else:
        if made_from == sha256_of(model_path):
            return
        found = "an existing file that was deployed from another model"
    raise user_error(
        f"output file {output}",
        found=found,
        allowed=None,
        remedy="choose another -o or give --overwrite",
    )


def write_judged(
    path: Path,
    write: Callable[..., None],
    manifest: Manifest,
    judge: Callable[[Path], Manifest],
) -> None:
    """Write a sealed file, judge the file itself, and write it again with what was found.

    That is what judging measured, and which operators the compiled code calls.

    Args:
        path: file to write; left unfinished where ``judge`` raises.
        write: puts the compiled model into a file, with ``manifest``, a text.
        manifest: what is known before.
        judge: loads the file, refuses it, or completes its manifest.
    """
    write(path, manifest=manifest.to_text())
    seal(path)
    measured = replace(judge(path), operators=operators_in(path))
    write(path, manifest=measured.to_text())
    seal(path)
