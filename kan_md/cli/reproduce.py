"""``kan-md reproduce``: the paper's tables, run again with controls and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def register(app: typer.Typer) -> None:
    """Add ``reproduce`` to the command line."""
    app.command("reproduce")(reproduce)


def reproduce(
    tables: Annotated[
        list[str] | None,
        typer.Argument(help="table2 ... table9; all where none is named.", metavar="TABLE..."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with Ag.xyz, HfO2.xyz, C_train.xyz and C_test.xyz, SiO2.xyz, as far as "
            "you have them; what is missing is made here.",
            envvar="KAN_MD_DATA",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Wall time of all trainings, like 30m; default: no limit."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Of every run, in the place of the files'.", min=1)
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="One or more, like 1111 2222 3333.", metavar="SEED...")
    ] = "1111,2222,3333",
    row: Annotated[
        list[str] | None, typer.Option(help="Label of a row; several times for several.")
    ] = None,
    size: Annotated[
        Literal["small", "paper"],
        typer.Option(help="A small model, or that of the configuration files (days on a CPU)."),
    ] = "small",
    jobs: Annotated[int, typer.Option(help="Trainings at a time.", min=1)] = 1,
    threads: Annotated[
        int | None, typer.Option(help="OpenMP threads of each training.", min=1)
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Of the trainings.")
    ] = "auto",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything.")] = Path(
        "reproduce"
    ),
    report: Annotated[
        Path | None, typer.Option(help="Markdown file; default report.md in the folder.")
    ] = None,
    draw: Annotated[bool, typer.Option(help="Report what is there, run nothing.")] = False,
) -> None:
    """Run the rows of the paper's tables and write a report beside its numbers.

    With --budget every run has the same wall time; otherwise the same epochs.

    Runs are kept in OUTPUT/runs: a repeated command runs only what is missing.

    Example: kan-md reproduce table2 table3 --data data --budget 30m --seeds 1111 2222 3333
    """
    from rich.console import Console

    from kan_md.benchmark.compare import command_line
    from kan_md.config.duration import parse_duration
    from kan_md.errors import user_error
    from kan_md.reproduce.study import Study

    try:
        numbers = tuple(dict.fromkeys(int(word) for word in seeds.split(",")))
        if min(numbers) < 0:
            raise ValueError("seeds are whole numbers >= 0")
    except ValueError as error:
        raise user_error(
            "seeds", found=repr(seeds), allowed="whole numbers >= 0", remedy="set --seeds 1 2 3"
        ) from error
    try:
        seconds = None if budget is None else float(parse_duration(budget))
    except ValueError as error:
        raise user_error(
            str(error), found=repr(budget), allowed=None, remedy="set --budget"
        ) from error
    console = Console(highlight=False)
    path = Study(
        tables=tuple(tables or ()),
        rows=tuple(row or ()),
        data=data,
        seeds=numbers,
        size=size,
        budget=seconds,
        epochs=epochs,
        jobs=jobs,
        threads=threads,
        device=device,
        output=output,
        report=report,
        draw=draw,
        command=command_line(),
        console=console,
    ).run()
    console.print(f"report: {path}", soft_wrap=True)
