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
    model: Annotated[
        Path,
        typer.Argument(
            help="best.ckpt of nequip-train, .nequip.zip, or .model of mace_run_train.",
            metavar="FILE",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; FILE's name with .pth by default."),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Run the code in the file: a .model opens only so, and a package is compared with "
            "its own code.",
        ),
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
    elements: Annotated[
        str | None,
        typer.Option(help="Keep these elements of a model of many, e.g. --elements Si O."),
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="Which of several heads of a MACE model to keep.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "float64"] | None,
        typer.Option(
            help="Precision to train and deploy in; by default the original's to train and float32 "
            "to deploy."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make model.pth from an Allegro, NequIP or MACE model, with the same energies.

    Energies and forces are compared with the original's on structures before anything is written.
    With --readout kan the KANs start as a least-squares fit of the old readouts, for fine-tuning.

    Example: kan-md convert best.ckpt -o model.pth
    """
    from kan_md.errors import user_error
    from kan_md.files import check_writable
    from kan_md.model.checkpoint import save_checkpoint
    from kan_md.model.convert import convert_model

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
    name = model.name.removesuffix(".zip").removesuffix(".nequip")
    target = output or model.with_name(name).with_suffix(ending)
    if model.is_file():  # else the converter says so
        check_writable(target, overwrite=overwrite)
    structures = ()
    if data:
        from kan_md.data import read_frames

        structures = read_frames(data)
    with Console(stderr=True).status("converting"):
        result = convert_model(
            model,
            trust=trust,
            head=head,
            readout={"kind": "kan", **shape} if readout == "kan" else None,
            structures=structures,
            model_dtype=dtype,
            elements=elements,
        )
        path = save_checkpoint(result.checkpoint, target)
    summary = {
        "output": str(path),
        "types": result.checkpoint.type_names,
        "readout": result.checkpoint.config["model"]["readout"]["kind"],
        "compared_with": result.compared_with,
        "weights": result.weights,
        "note": result.note,
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
        *([("weights", summary["weights"])] if summary["weights"] else []),
        (
            "compared with",
            f"{summary['compared_with']} on {summary['num_structures']} structures",
        ),
        ("largest energy error", f"{summary['energy_error_eV']:.1e} eV"),
        ("largest force error", f"{summary['force_error_eV_per_A']:.1e} eV/Å"),
    ]
    if summary["note"]:
        rows.append(("note", summary["note"]))
    if "fit_r_squared" in summary:
        rows += [
            ("KAN fitted to", f"{summary['fitted_atoms']} atoms"),
            ("variance explained", f"{100 * summary['fit_r_squared']:.3f} %"),
            ("energy error added", f"{1e3 * summary['kan_energy_error_eV_per_atom']:.3f} meV/atom"),
        ]
    return rows
