"""``kan-md evaluate``: errors of a model on labelled structures."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add ``evaluate`` to the command line."""
    app.command("evaluate")(evaluate)


def evaluate(
    model: Annotated[Path, typer.Argument(help="model.pth or deployed file.", metavar="MODEL")],
    data: Annotated[
        list[Path], typer.Argument(help="Labelled structures.", metavar="DATA.xyz ...")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for parity plots and predictions."),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(help="Parity plots: .png, .pdf, .svg; default parity.png in the folder."),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(help="Name of a label in the file.", metavar="LABEL=NAME"),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    overwrite: Annotated[bool, typer.Option(help="Replace existing results.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the errors as JSON.")] = False,
) -> None:
    """Compare predictions with labels: MAE and RMSE of energy, forces and stress, or of tensors.

    Example: kan-md evaluate run/model.pth test.xyz --output evaluation
    """
    from rich.console import Console

    from kan_md.cli.tables import component_table, error_table, group_table, track_frames
    from kan_md.data.label_report import LabelReport
    from kan_md.data.labels import check_keys, parse_keys
    from kan_md.data.reading import read_frames
    from kan_md.evaluate.evaluation import evaluate_file
    from kan_md.evaluate.output import check_output, errors_as_plain, write_evaluation
    from kan_md.evaluate.parity import plot_parity

    keys = parse_keys(key or [])
    check_output(output, figure=figure, overwrite=overwrite)
    report = LabelReport()
    frames = read_frames(data, keys, report=report)
    check_keys(report, keys)
    track = partial(track_frames, description="evaluating")
    result = evaluate_file(model, frames, device=device, track=track)
    if output is not None:
        write_evaluation(result, output, figure=figure, overwrite=overwrite)
    elif figure is not None:
        plot_parity(result, figure)
    if as_json:
        typer.echo(json.dumps({"structures": result.counts["all"], **errors_as_plain(result)}))
        return
    console = Console()
    for line in report.lines():
        console.print(line, highlight=False, soft_wrap=True)
    heading = f"{result.counts['all']} structures"
    console.print(error_table({heading: result.errors}, result.targets))
    if result.by_config_type:
        console.print(group_table(result.by_config_type, result.counts, result.targets))
    for symbol, label, prediction in result.isolated:
        said = "unknown to the model" if prediction is None else f"{prediction:.4f} eV"
        console.print(
            f"isolated {symbol}, not in the errors: {said}, label {label:.4f} eV", highlight=False
        )
    for target in result.targets:
        if target.components:
            console.print(component_table(result.errors, target))
    if output is not None:
        console.print(f"parity plots and predictions: {output}", highlight=False)
