"""``kan-md demo``: data, training, deployment and a LAMMPS run of a KAN and its control."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def register(app: typer.Typer) -> None:
    """Add ``demo`` to the command line."""
    app.command("demo")(demo)


def demo(
    backbone: Annotated[
        Literal["allegro", "nequip", "mace", "local-mace"],
        typer.Option(help="Architecture; local-mace is MACE of one layer."),
    ] = "allegro",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything.")] = Path(
        "demo"
    ),
    control: Annotated[
        Literal["mlp", "linear"], typer.Option(help="Readout that the KAN is compared with.")
    ] = "mlp",
    train_time: Annotated[str, typer.Option(help="Training time of each model.")] = "70s",
    steps: Annotated[int, typer.Option(help="LAMMPS steps of each model.")] = 5000,
) -> None:
    """Make data, train a KAN and its control, deploy both and run both in LAMMPS.

    What is finished is not done again: after an interruption give the same command.

    Example: kan-md demo --backbone allegro --output demo
    """
    from rich.console import Console

    from kan_md.benchmark.demo import Demo

    Demo(
        backbone=backbone,
        output=output,
        control=control,
        train_time=train_time,
        steps=steps,
        console=Console(highlight=False),
    ).run()
