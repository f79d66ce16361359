"""``kan-md convert``: from a pickled model of mace-torch to model.pth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table


def register(app: typer.Typer) -> None:
    """Add ``convert`` to the command line."""
    app.command("convert")(convert)


def convert(
    model: Annotated[Path, typer.Argument(help="Model of mace_run_train.", metavar="FOO.model")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; FOO.pth by default.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the code in the pickled file to open it.")
    ] = False,
    readout: Annotated[
        Literal["mlp", "kan"], typer.Option(help="Keep upstream's readouts, or put KANs in.")
    ] = "mlp",
    basis: Annotated[
        Literal["gaussian", "bspline", "fourier"] | None,
        typer.Option(help="Basis of the KANs; gaussian by default."),
    ] = None,
    num_basis: Annotated[
        int | None, typer.Option(help="Basis functions per input of the KANs; 8 by default.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Structures to compare on and to fit KANs to; made up by default."),
    ] = None,
    head: Annotated[str | None, typer.Option(help="Which of several heads to keep.")] = None,
    dtype: Annotated[
        Literal["float32", "float64"] | None,
        typer.Option(help="Precision of the weights; the original's by default."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make model.pth from a MACE model, with the same energies.

    With --readout kan the KANs start as a least-squares fit of the old readouts, for fine-tuning.

    Example: kan-md convert foo.model --trust --readout kan --data train.xyz -o model.pth
    """
    from kan_md.data import read_frames
    from kan_md.errors import user_error
    from kan_md.files import check_writable
    from kan_md.model.checkpoint import save_checkpoint
    from kan_md.model.convert import convert_mace

    ending = ".converted.pth" if model.suffix == ".pth" else ".pth"
    shape = {"basis": basis, "num_basis": num_basis}
    shape = {key: value for key, value in shape.items() if value is not None}
    if shape and readout != "kan":
        raise user_error(
            " and ".join(f"--{key.replace('_', '-')}" for key in shape),
            found=f"--readout {readout}, which keeps upstream's readouts",
            allowed=None,
            remedy="add --readout kan, or leave it out",
        )
    target = output or model.with_suffix(ending)
    if model.is_file():  # else the converter says so
        check_writable(target, overwrite=overwrite)
    with Console(stderr=True).status("converting"):
        result = convert_mace(
            model,
            trust=trust,
            head=head,
            readout={"kind": "kan", **shape} if readout == "kan" else None,
            structures=read_frames(data) if data else (),
            model_dtype=dtype,
        )
        path = save_checkpoint(result.checkpoint, target)
    summary = {
        "output": str(path),
        "types": result.checkpoint.type_names,
        "readout": result.checkpoint.config["model"]["readout"]["kind"],
        "num_structures": result.num_structures,
        "energy_error_eV": result.energy_error,
        "force_error_eV_per_A": result.force_error,
    }
    if result.fit is not None:
        summary |= {
            "fitted_atoms": result.fit.num_samples,
            "fit_r_squared": result.fit.r_squared,
            "kan_energy_error_eV_per_atom": result.readout_energy_error,
        }
    if as_json:
        typer.echo(json.dumps(summary))
        return
    table = Table(show_header=False, title=f"{model.name} -> {path.name}")
    for name, text in _rows(summary):
        table.add_row(name, text)
    Console().print(table)


def _rows(summary: dict) -> list[tuple[str, str]]:
    rows = [
        ("written to", summary["output"]),
        ("elements", " ".join(summary["types"])),
        ("compared on", f"{summary['num_structures']} structures"),
        ("largest energy error", f"{summary['energy_error_eV']:.1e} eV"),
        ("largest force error", f"{summary['force_error_eV_per_A']:.1e} eV/Å"),
    ]
    if "fit_r_squared" in summary:
        rows += [
            ("KAN fitted to", f"{summary['fitted_atoms']} atoms"),
            ("variance explained", f"{100 * summary['fit_r_squared']:.3f} %"),
            ("energy error added", f"{1e3 * summary['kan_energy_error_eV_per_atom']:.3f} meV/atom"),
        ]
    return rows
