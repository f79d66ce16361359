"""``kan-md inspect``: what is in a model file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

_MOST_LINES = 4


def register(app: typer.Typer) -> None:
    """Add ``inspect`` to the command line."""
    app.command("inspect")(inspect)


def inspect(
    file: Annotated[
        Path, typer.Argument(help="Trained, deployed or nequip-compiled model.", metavar="FILE")
    ],
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw the functions of a KAN readout over the arguments that they meet: .png, "
            ".pdf, .svg.",
            metavar="FIGURE",
        ),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="With --plot: structures instead of the reference frames."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with --plot the functions, too.")
    ] = False,
) -> None:
    """Print what is in a model file, and check that it is whole.

    Example: kan-md inspect model.pth --plot functions.png --data train.xyz
    """
    from kan_md.backbones.readout_report import readout_lines
    from kan_md.errors import user_error
    from kan_md_deploy.inspect import describe_file

    if data and plot is None:
        raise user_error(
            "--data has no effect without --plot",
            found=", ".join(map(str, data)),
            allowed=None,
            remedy="add --plot functions.png, or leave it out",
        )
    found = describe_file(file)
    if plot is not None:
        found["figure"] = str(plot)
        found["functions"] = _draw(file, plot, data or [])
    if as_json:
        typer.echo(json.dumps(found))
        return
    if "functions" in found:
        found["functions"] = "\n".join(_function_lines(found["functions"]))
    if "readouts" in found:
        found["readouts"] = "\n".join(readout_lines(found["readouts"]))
    table = Table(title=f"{found.pop('what')} model", show_header=False)
    for key, value in found.items():
        table.add_row(key.replace("_", " "), _readable(value))
    Console().print(table)


def _draw(file: Path, plot: Path, data: list[Path]) -> list[dict]:
    """Draw the functions of a trained model and give them as plain values."""
    from kan_md.data import read_frames
    from kan_md.evaluate.function_figure import figure_title, plot_functions
    from kan_md.evaluate.functions import learned_functions
    from kan_md.figures import check_figure_name
    from kan_md.model.checkpoint import load_checkpoint

    check_figure_name(plot, option="--plot")
    checkpoint = load_checkpoint(file, wanted="any")
    functions = learned_functions(checkpoint, read_frames(data) if data else ())
    plot_functions(functions, plot, title=figure_title(functions, file.name))
    return [function.as_json() for function in functions]


def _function_lines(functions: list[dict]) -> list[str]:
    """The functions that contribute most, type by type."""
    lines, seen = [], Counter()
    for entry in functions:
        seen[entry["type_name"]] += 1
        if seen[entry["type_name"]] > _MOST_LINES:
            continue
        place = f"{entry['place']}, " if entry["place"] else ""
        factor, unit = (1e3, " meV") if entry["unit"] else (1.0, "")
        outside = f", {entry['outside']:.1%} outside its grid" if entry["outside"] else ""
        lines.append(
            f"{entry['type_name']}, {place}k = {entry['number'] + 1}: "
            f"{factor * entry['contribution']:.3g}{unit} beside a line{outside}"
        )
    return lines


def _readable(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_readable(item)}" for key, item in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return " ".join(_readable(item) for item in value) or "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
