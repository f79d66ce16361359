"""``kan-md data``: sets of labelled structures made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

commands = typer.Typer(help="Make labelled structures.")


def register(app: typer.Typer) -> None:
    """Add ``data`` to the command line."""
    app.add_typer(commands, name="data")


@commands.command("ag-vacancy")
def ag_vacancy(
    output: Annotated[Path, typer.Argument(help="Extended XYZ file to write.", metavar="OUT.xyz")],
    frames: Annotated[int, typer.Option(help="Number of structures.")] = 240,
    temperature: Annotated[
        list[float] | None, typer.Option(help="Temperature of runs, K; several times for several.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of velocities and strains.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON summary.")] = False,
) -> None:
    """Silver with a vacancy (71 atoms), MD at several temperatures, labelled by an EAM potential.

    Example: kan-md data ag-vacancy ag.xyz --frames 240
    """
    from kan_md.data.ag_vacancy import TEMPERATURES, make_ag_vacancy
    from kan_md.data.write import write_frames
    from kan_md.files import check_writable

    check_writable(output, overwrite=overwrite)
    with Console(stderr=True).status("molecular dynamics in LAMMPS"):
        made = make_ag_vacancy(frames, seed, temperatures=temperature or TEMPERATURES)
    write_frames(made, output, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps({"output": str(output), "frames": len(made), "atoms": len(made[0])}))
    else:
        typer.echo(f"{output}: {len(made)} structures of {len(made[0])} Ag atoms")


@commands.command("charge-transfer")
def charge_transfer(
    output: Annotated[Path, typer.Argument(help="Extended XYZ file to write.", metavar="OUT.xyz")],
    frames: Annotated[int, typer.Option(help="Number of structures.")] = 120,
    seed: Annotated[int, typer.Option(help="Seed of displacements and strains.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON summary.")] = False,
) -> None:
    """Rattled zinc-blende cells (16 atoms) with the Born charges of an analytic bond-charge model.

    Example: kan-md data charge-transfer born.xyz --frames 120
    """
    from kan_md.data.charge_transfer import make_charge_transfer
    from kan_md.data.write import write_frames
    from kan_md.files import check_writable

    check_writable(output, overwrite=overwrite)
    with Console(stderr=True).status("labelling"):
        made = make_charge_transfer(frames, seed)
    write_frames(made, output, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps({"output": str(output), "frames": len(made), "atoms": len(made[0])}))
    else:
        typer.echo(f"{output}: {len(made)} structures of {len(made[0])} atoms with bec")
