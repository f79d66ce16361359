"""``kan-md refit``: readouts solved exactly for labelled structures."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

_SHARE = 0.2
"""Of the structures that judge where no others are given."""


def register(app: typer.Typer) -> None:
    """Add ``refit`` to the command line."""
    app.command("refit")(refit)


def refit(
    model: Annotated[Path, typer.Argument(help="model.pth of a potential.", metavar="MODEL")],
    data: Annotated[
        list[Path], typer.Argument(help="Labelled structures.", metavar="DATA.xyz ...")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="model.pth to write.")] = Path(
        "refitted.pth"
    ),
    val: Annotated[
        list[Path] | None,
        typer.Option(help="Structures that choose the penalties; default a fifth, in blocks."),
    ] = None,
    prior: Annotated[
        float,
        typer.Option(help="Weight of structures of earlier refits, which MODEL has; 0 forgets."),
    ] = 1.0,
    key: Annotated[
        list[str] | None,
        typer.Option(help="Name of a label in the file.", metavar="LABEL=NAME"),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the errors as JSON.")] = False,
) -> None:
    """Solve the last layer of a potential's readouts exactly, by least squares.

    Energies, forces and stress are linear in it. What was learned below stays; the squares are
    weighted as the training's loss is. MODEL's sums of earlier refits count, so that new structures
    forget nothing.

    Example: kan-md refit run/model.pth train.xyz --val val.xyz -o run/refitted.pth
    """
    from rich.console import Console

    from kan_md.cli.tables import track_frames
    from kan_md.data.label_report import LabelReport
    from kan_md.data.labels import check_keys, parse_keys
    from kan_md.data.reading import read_frames
    from kan_md.data.splitting import split_indices
    from kan_md.errors import user_error
    from kan_md.files import check_writable
    from kan_md.model.checkpoint import load_checkpoint, save_checkpoint
    from kan_md.solve.refit import refit as solve

    keys = parse_keys(key or [])
    check_writable(output, overwrite=overwrite)
    checkpoint = load_checkpoint(model)
    report = LabelReport()
    frames = read_frames(data, keys, report=report)
    check_keys(report, keys)
    if val:
        fit, judge = frames, read_frames(val, keys)
    else:
        if len(frames) < 2:
            raise user_error(
                "structures to fit and to judge by",
                found=len(frames),
                allowed="at least 2",
                remedy="give others with --val",
            )
        judges = max(1, round(_SHARE * len(frames)))
        sizes = {"train": len(frames) - judges, "val": judges, "test": 0}
        parts = split_indices(len(frames), sizes, method="block")
        fit, judge = ([frames[i] for i in parts[part]] for part in ("train", "val"))
    track = partial(track_frames, description="refitting")
    found = solve(checkpoint, fit, judge, prior=prior, track=track)
    save_checkpoint(found.checkpoint, output)
    solution = found.solution
    if as_json:
        content = {
            "output": str(output),
            "structures": found.counts,
            "unknowns": found.size,
            "ridge": None if solution is None else solution.ridge,
            "smoothness": None if solution is None else solution.smoothness,
            "rmse": found.errors,
        }
        typer.echo(json.dumps(content))
        return
    console = Console()
    for line in report.lines():
        console.print(line, highlight=False, soft_wrap=True)
    console.print(_table(found.errors, found.counts))
    console.print(_line(found), highlight=False, soft_wrap=True)
    console.print(f"written: {output}", highlight=False, soft_wrap=True)


def _table(errors: dict, counts: dict[str, int]):
    from rich.table import Table

    from kan_md.cli.tables import NOTHING

    table = Table()
    table.add_column("RMSE, before → after", no_wrap=True)
    for part in ("fit", "judge"):
        table.add_column(f"{part} ({counts[part]})", justify="right", no_wrap=True)
    units = {"energy": "meV/atom", "forces": "meV/Å", "stress": "meV/Å³"}
    for name, unit in units.items():
        pairs = [[errors[part][when][name] for when in ("before", "after")] for part in errors]
        if any(value is not None for pair in pairs for value in pair):
            table.add_row(f"{name} ({unit})", *(_cell(pair, NOTHING) for pair in pairs))
    return table


def _cell(pair: list[float | None], nothing: str) -> str:
    """Two errors in thousandths; None is no label."""
    return nothing if None in pair else " → ".join(f"{1e3 * value:.3g}" for value in pair)


def _line(found) -> str:
    earlier = found.counts["prior"]
    prior = f", with the sums of {earlier} structures of before" if earlier else ""
    if found.solution is None:
        return f"{found.size} unknowns{prior}: no solution did better than the readouts that were"
    return (
        f"{found.size} unknowns{prior}: ridge {found.solution.ridge:g}, "
        f"smoothness {found.solution.smoothness:g}"
    )
