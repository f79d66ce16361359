"""``kan-md export``: from model.pth to what other engines take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

_ENDINGS = {"nequip": ".ckpt", "metatomic": ".pt"}


def register(app: typer.Typer) -> None:
    """Add ``export`` to the command line."""
    app.command("export")(export)


def export(
    model: Annotated[Path, typer.Argument(help="Trained potential.", metavar="MODEL.pth")],
    form: Annotated[
        Literal["nequip", "metatomic"],
        typer.Option(
            "--format",
            help="nequip: a checkpoint for nequip's calculator and tools; metatomic: a file for "
            "its ASE calculator and engines.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; beside MODEL by default.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace existing files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a potential for other programs.

    A checkpoint of nequip is for nequip's ASE calculator, nequip-compile and nequip-package, where
    kan-md is installed too. Optimisation passes of `kan-md deploy` are not in it. A file of
    metatomic stands alone, for processors, with those passes that a portable file has.

    Example: kan-md export model.pth --format nequip -o model.ckpt
    """
    from kan_md.errors import user_error
    from kan_md.files import check_writable
    from kan_md.model.checkpoint import load_checkpoint
    from kan_md.tasks.choose import task_of_checkpoint

    checkpoint = load_checkpoint(model)
    task = task_of_checkpoint(checkpoint)
    if not task.is_differentiated:
        raise user_error(
            "kind of model to export",
            found=task.kind,
            allowed="potential",
            remedy="deploy it with kan-md deploy",
        )
    ending = _ENDINGS[form]
    path = output or model.with_suffix(ending)
    if path.suffix != ending:
        what = {"nequip": "checkpoint", "metatomic": "file"}[form]
        raise user_error(
            f"ending of the {what}'s name",
            found=path.name,
            allowed=f"{ending}, by which {form} knows it",
            remedy="change -o",
        )
    check_writable(path, overwrite=overwrite)
    if form == "nequip":
        from kan_md.model.export_nequip import export_nequip

        check_writable(path.with_suffix(".xyz"), overwrite=overwrite)
        summary = {
            "output": str(path),
            "structures": str(export_nequip(checkpoint, path)),
            "needs": "nequip and kan-md",
            "passes": "none",
        }
    else:
        from kan_md_deploy.metatomic import export_metatomic

        written = export_metatomic(model, path)
        summary = {
            "output": str(path),
            "needs": "metatomic-torch",
            "dtype": written.dtype,
            "passes": ", ".join(written.passes) or "none",
        }
    if as_json:
        typer.echo(json.dumps(summary))
        return
    table = Table(show_header=False)
    for name, text in summary.items():
        table.add_row(name, text)
    Console().print(table)
