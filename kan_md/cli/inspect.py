"""``kan-md inspect``: what is in a model file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def register(app: typer.Typer) -> None:
    """Add ``inspect`` to the command line."""
    app.command("inspect")(inspect)


def inspect(
    file: Annotated[
        Path, typer.Argument(help="Trained, deployed or nequip-compiled model.", metavar="FILE")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what is in a model file, and check that it is whole.

    Example: kan-md inspect model.deployed.pth
    """
    from kan_md.backbones.readout_report import readout_lines
    from kan_md_deploy.inspect import describe_file

    found = describe_file(file)
    if as_json:
        typer.echo(json.dumps(found))
        return
    if "readouts" in found:
        found["readouts"] = "\n".join(readout_lines(found["readouts"]))
    table = Table(title=f"{found.pop('what')} model", show_header=False)
    for key, value in found.items():
        table.add_row(key.replace("_", " "), _readable(value))
    Console().print(table)


def _readable(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_readable(item)}" for key, item in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return " ".join(_readable(item) for item in value) or "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
