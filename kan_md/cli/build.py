"""``kan-md build``: compile the LAMMPS plug-in for this environment."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn


def register(app: typer.Typer) -> None:
    """Add ``build`` to the command line."""
    app.command("build")(build)


def build(
    force: Annotated[bool, typer.Option("--force", help="Compile again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compile pair_style allegro, nequip and mace for this torch and this LAMMPS, once.

    After it plain `lmp -in in.lammps` knows them.

    Example: kan-md build
    """
    from kan_md.builds.toolchain import find_toolchain, missing_cuda_headers
    from kan_md.lammps.build import build_plugin

    missing = missing_cuda_headers(find_toolchain())
    if missing:
        typer.echo(f"note: {missing}", err=True)
    console = Console(stderr=True)
    if not console.is_terminal:
        folder = build_plugin(force=force)  # says in a line what it does
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
            task = bar.add_task("kan-md plug-in", total=None)
            folder = build_plugin(
                force=force,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
            bar.update(task, total=1, completed=1)
    if as_json:
        typer.echo(json.dumps({"plugin_path": str(folder)}))
    else:
        typer.echo(f"plug-in: {folder}")
