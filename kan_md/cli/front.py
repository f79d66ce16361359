"""``kan-md front``: accuracy against cost for one's own data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add ``front`` to the command line."""
    app.command("front")(front)


def front(
    config: Annotated[Path, typer.Argument(help="Configuration file.", metavar="config.yaml")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for all results.")] = Path(
        "front"
    ),
    size: Annotated[
        str,
        typer.Option(
            help="What to compare, with commas: tiny, small, medium (local MACE), allegro (a small "
            "one), own (model and readout of the configuration).",
        ),
    ] = "tiny,small,medium,allegro",
    budget: Annotated[
        str | None,
        typer.Option(
            help="Time for training in this call, e.g. 4h; what is unfinished then goes on at the "
            "next call. Each training has the epochs or max_time of the configuration."
        ),
    ] = None,
    structure: Annotated[
        Path | None,
        typer.Option(help="To time on, as it is; default the first test structure, repeated."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Replace one value of the file.", metavar="SECTION.KEY=VALUE"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Train a ladder of sizes on your data, deploy and time each, and draw error against cost.

    Data, training and what the model section says of the data (r_max, reference energies, dtype)
    are those of the configuration. What is done is not done again: the same command goes on.
    Writes front.png, front.md, front.json.

    Example: kan-md front config.yaml --budget 4h --output front
    """
    from rich.console import Console

    from kan_md.front.report import caption, choice_lines, screen_table
    from kan_md.front.study import make_front

    result = make_front(
        config,
        output,
        sizes=size,
        budget=budget,
        structure=structure,
        settings=setting or (),
        console=Console(stderr=True, highlight=False, soft_wrap=True),
    )
    if as_json:
        typer.echo(result.to_json())
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(screen_table(result))
    for line in choice_lines(result, output):
        console.print(line, markup=False)
    console.print(f"\n{caption(result)}", markup=False, style="dim")
    console.print(f"{output}: front.png, front.md, front.json", markup=False)
