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
        typer.Option(
            help="With --plot, --symbolic, --prune: structures instead of the reference frames."
        ),
    ] = None,
    symbolic: Annotated[
        bool,
        typer.Option(
            "--symbolic", help="Fit formulas of a small library to the functions, with R²."
        ),
    ] = False,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Errors on --data with the least of the functions left out."),
    ] = False,
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

    functions_wanted = plot is not None or symbolic or prune
    if data and not functions_wanted:
        raise user_error(
            "--data has no effect without --plot, --symbolic or --prune",
            found=", ".join(map(str, data)),
            allowed=None,
            remedy="add --plot functions.png, or leave it out",
        )
    if prune and not data:
        raise user_error(
            "--prune needs labelled structures",
            found="no --data",
            allowed=None,
            remedy="add --data test.xyz",
        )
    found = describe_file(file)
    if functions_wanted:
        found |= _functions(file, plot, data or [], symbolic=symbolic, prune=prune)
    if as_json:
        typer.echo(json.dumps(found))
        return
    if "functions" in found:
        found["functions"] = "\n".join(_function_lines(found["functions"]))
    tables = []
    if "symbolic" in found:
        tables.append(_symbolic_table(found.pop("symbolic")))
    if "pruning" in found:
        tables.append(_pruning_table(found.pop("pruning")))
    if "readouts" in found:
        found["readouts"] = "\n".join(readout_lines(found["readouts"]))
    table = Table(title=f"{found.pop('what')} model", show_header=False)
    for key, value in found.items():
        table.add_row(key.replace("_", " "), _readable(value))
    for one in [table, *tables]:
        Console().print(one)


def _functions(
    file: Path, plot: Path | None, data: list[Path], *, symbolic: bool, prune: bool
) -> dict[str, object]:
    """What is asked of the functions of a trained model, as plain values."""
    from dataclasses import asdict

    from kan_md.data import read_frames
    from kan_md.evaluate.function_figure import figure_title, plot_functions
    from kan_md.evaluate.functions import learned_functions
    from kan_md.evaluate.pruning import pruned_errors
    from kan_md.evaluate.symbolic import symbolic_fits
    from kan_md.figures import check_figure_name
    from kan_md.model.checkpoint import load_checkpoint

    if plot is not None:
        check_figure_name(plot, option="--plot")
    checkpoint = load_checkpoint(file, wanted="any")
    frames = read_frames(data) if data else []
    functions = learned_functions(checkpoint, frames)
    found: dict[str, object] = {}
    if plot is not None:
        plot_functions(functions, plot, title=figure_title(functions, file.name))
        found["figure"] = str(plot)
    found["functions"] = [function.as_json() for function in functions]
    if symbolic:
        found["symbolic"] = [asdict(fit) for fit in symbolic_fits(functions)]
    if prune:
        found["pruning"] = [asdict(row) for row in pruned_errors(checkpoint, functions, frames)]
    return found


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
    for role, words in (("line", "no more than lines"), ("unused", "unused")):
        counts = Counter(entry["type_name"] for entry in functions if entry["role"] == role)
        lines += [f"{name}, {count} of {seen[name]} {words}" for name, count in counts.items()]
    return lines


def _symbolic_table(fits: list[dict]) -> Table:
    """Nearest formulas, and how near they are."""
    table = Table(title="Formulas over the arguments met (the functions stay as they are)")
    for name in ("function", "nearest form", "R²", "R² beside a line", "formula"):
        table.add_column(name, justify="right" if name.startswith("R²") else "left")
    for fit in fits:
        place = f"{fit['place']}, " if fit["place"] else ""
        output = "" if fit["unit"] else f" to hidden feature {fit['output'] + 1}"
        beside = "-" if fit["r2_beside_line"] is None else f"{fit['r2_beside_line']:.4f}"
        form, formula = fit["form"], fit["formula"]
        if not fit["found"]:
            form, formula = f"none (nearest: {form})", "-"
        function = f"{fit['type_name']}, {place}k = {fit['number'] + 1}{output}"
        table.add_row(function, form, f"{fit['r2']:.4f}", beside, formula)
    return table


def _pruning_table(rows: list[dict]) -> Table:
    """Errors by how many functions are left out."""
    table = Table(title="Functions left out, those that vary least first")
    for name in ("left out", "energy MAE (meV/atom)", "force MAE (meV/Å)"):
        table.add_column(name, justify="right")
    for row in rows:
        errors = [row["energy_mae"], row["forces_mae"]]
        texts = ["-" if error is None else f"{1e3 * error:.4g}" for error in errors]
        table.add_row(f"{row['left_out']} of {row['of']}", *texts)
    return table


def _readable(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_readable(item)}" for key, item in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return " ".join(_readable(item) for item in value) or "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
