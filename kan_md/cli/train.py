"""``kan-md train``: from a configuration file to model.pth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kan_md.errors import KanMdError


def register(app: typer.Typer) -> None:
    """Add ``train`` to the command line."""
    app.command("train")(train)


def train(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="Configuration file.", metavar="config.yaml")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for all results.")] = Path(
        "run"
    ),
    resume: Annotated[bool, typer.Option(help="Continue an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a run that is there.")] = False,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Replace one value of the file.", metavar="SECTION.KEY=VALUE"),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(help="Learning curve: .png, .pdf, .svg; default learning_curve.png in there."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Train a model.

    Several processes: --set training.devices=4, or `srun kan-md train ...` under SLURM with
    training.devices and training.num_nodes.

    With --resume the settings of the first command hold until they are given anew.

    Example: kan-md train config.yaml --output run --set training.epochs=50
    """
    from rich.console import Console

    from kan_md.cli.tables import error_table
    from kan_md.config import load_config
    from kan_md.config.overrides import kept_overrides, record_settings
    from kan_md.train.checkpoints import can_be_resumed, read_saved_run
    from kan_md.train.interrupt import TrainingInterrupted
    from kan_md.train.processes import external_rank
    from kan_md.train.run import RESULT_FILE
    from kan_md.train.run import train as run

    others = external_rank() > 0
    console = Console(quiet=as_json or others)
    overrides = list(setting or ())
    if resume and can_be_resumed(output):
        kept, notes = kept_overrides(config, read_saved_run(output).settings, overrides)
        overrides = [*kept, *overrides]
        for note in notes:
            console.print(note, highlight=False, soft_wrap=True)
    try:
        settings = load_config(config, overrides)
    except KanMdError:
        if others:  # the first process says the same
            raise typer.Exit(2) from None
        raise
    try:
        model = run(
            settings,
            output,
            resume=resume,
            overwrite=overwrite,
            settings=record_settings(config, overrides),
            started=context.obj,
            figure=figure,
            console=console,
        )
    except TrainingInterrupted as interruption:
        if others:
            raise typer.Exit(130) from None
        typer.echo(f"kan-md: {interruption}", err=True)
        raise typer.Exit(130) from None
    if others:
        return
    summary = json.loads((output / RESULT_FILE).read_text())
    if as_json:
        typer.echo(json.dumps({"model": str(model), **summary}))
        return
    console.print(error_table(summary["errors"], settings.task.targets))
    console.print(
        f"best epoch {summary['best_epoch']} of {summary['epochs']}, {summary['seconds']:.0f} s; "
        f"model: {model}",
        highlight=False,
    )
