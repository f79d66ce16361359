"""``kan-md inputs``: the ready LAMMPS inputs, copied to where the user works."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add ``inputs`` to the command line."""
    app.command("inputs")(inputs)


def inputs(
    output: Annotated[
        Path | None, typer.Argument(help="Folder to copy to; without it list them.", metavar="DIR")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace existing files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the ready LAMMPS inputs (NVT, NVE, NPT, heat flux, hybrid, ...) or copy them.

    Example: kan-md inputs runs && kan-md lmp -in runs/nvt_benchmark.in -var model ag.deployed.pth
    """
    from rich.console import Console
    from rich.table import Table

    from kan_md.errors import user_error
    from kan_md.files import write_text

    sources = sorted(
        (f for f in files("kan_md_lammps_inputs").iterdir() if f.name.endswith((".in", ".yaml"))),
        key=lambda f: f.name,
    )
    texts = {source.name: source.read_text() for source in sources}
    if output is not None:
        existing = [name for name in texts if (output / name).exists()]
        if existing and not overwrite:
            raise user_error(
                "inputs would be overwritten",
                found=f"{len(existing)} of them in {output}, {existing[0]} first",
                allowed=None,
                remedy="choose another folder or set --overwrite",
            )
        for name, text in texts.items():
            write_text(output / name, text, make_folder=True)
    purposes = {name: text.splitlines()[0].lstrip("# ") for name, text in texts.items()}
    if as_json:
        typer.echo(json.dumps(purposes, indent=1))
        return
    table = Table(show_header=False, box=None)
    for name, purpose in purposes.items():
        table.add_row(name if output is None else str(output / name), purpose)
    Console().print(table)
