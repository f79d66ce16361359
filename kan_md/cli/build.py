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
    from kan_md.lammps.build import build_plugin
    from kan_md.lammps.toolchain import find_toolchain, knows_cuda

    toolchain = find_toolchain()
    if knows_cuda(toolchain.torch_root) and not toolchain.cuda_include:
        typer.echo(
            "note: no CUDA headers, so GPUs will not replay steps; for CUDA 13 run: "
            "pip install nvidia-cuda-runtime nvidia-cuda-crt, or set CUDA_HOME",
            err=True,
        )
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
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
