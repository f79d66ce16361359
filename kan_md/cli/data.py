"""``kan-md data``: a look at sets of labelled structures, and sets made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

commands = typer.Typer(help="Look at labelled structures, or make some.")


def register(app: typer.Typer) -> None:
    """Add ``data`` to the command line."""
    app.add_typer(commands, name="data")


@commands.command("check")
def check(
    data: Annotated[
        list[Path], typer.Argument(help="Labelled structures.", metavar="DATA.xyz ...")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Figure: .png, .pdf or .svg.")
    ] = Path("data_check.png"),
    key: Annotated[
        list[str] | None,
        typer.Option(help="Name of a label in the file.", metavar="LABEL=NAME"),
    ] = None,
    r_max: Annotated[float, typer.Option(help="Cutoff for neighbours, Å.")] = 5.0,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing figure.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """Say what a set holds, what is missing or odd in it, by config_type, with a picture.

    Example: kan-md data check frames.xyz -o frames.png
    """
    from kan_md.cli.tables import survey_table, track_frames
    from kan_md.data.checks import check_structures
    from kan_md.data.isolated import separate_isolated
    from kan_md.data.label_report import LabelReport
    from kan_md.data.labels import check_keys, parse_keys
    from kan_md.data.reading import read_frames
    from kan_md.data.survey import make_survey, measure_distances
    from kan_md.data.survey_figure import plot_survey
    from kan_md.data.survey_table import as_plain, group_rows, summary_lines
    from kan_md.errors import user_error
    from kan_md.figures import check_figure_name
    from kan_md.files import check_writable

    if not 0.0 < r_max < 100.0:
        raise user_error("--r-max", found=r_max, allowed="0 to 100 Å", remedy="e.g. --r-max 5")
    check_figure_name(output)
    check_writable(output, overwrite=overwrite)
    keys, report = parse_keys(key or []), LabelReport()
    frames = read_frames(data, keys, report=report)
    check_keys(report, keys)
    check_structures(frames, "set")
    frames, isolated = separate_isolated(frames, r_max)
    tracked = track_frames(frames, description="looking for neighbours")
    distances = [measure_distances(atoms, r_max) for atoms in tracked]
    survey = make_survey(frames, r_max, isolated=isolated, distances=distances)
    if survey.frames:
        plot_survey(survey, output)
    if as_json:
        figure = str(output) if survey.frames else None
        typer.echo(json.dumps({"figure": figure, **as_plain(survey, report)}))
        return
    console = Console()
    if survey.frames:
        console.print(survey_table(group_rows(survey)))
    for line in summary_lines(survey, report):
        console.print(line, highlight=False, soft_wrap=True)
    if survey.frames:
        console.print(f"picture: {output}", highlight=False)


@commands.command("augment")
def augment(
    data: Annotated[
        list[Path], typer.Argument(help="Structures to perturb.", metavar="DATA.xyz ...")
    ],
    teacher: Annotated[Path, typer.Option(help="model.pth or deployed file of a potential.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Extended XYZ file to write.")
    ] = Path("augmented.xyz"),
    copies: Annotated[int, typer.Option(help="Perturbed structures of each.")] = 4,
    displacement: Annotated[
        float, typer.Option(help="Standard deviation of each coordinate, Å.")
    ] = 0.1,
    strain: Annotated[float, typer.Option(help="Largest strain of periodic cells.")] = 0.02,
    weight: Annotated[float, typer.Option(help="Their config_weight; others have 1.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of displacements and strains.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON summary.")] = False,
) -> None:
    """Perturb structures and label them by a potential: a teacher for a smaller, faster one.

    They join the training set, and nothing else, as data: {train: frames.xyz, replay:
    augmented.xyz}.

    Example: kan-md data augment frames.xyz --teacher large/model.pth -o augmented.xyz
    """
    from kan_md.calculator import KANCalculator
    from kan_md.cli.tables import track_frames
    from kan_md.data.augment import augment as perturb
    from kan_md.data.checks import check_structures
    from kan_md.data.isolated import separate_isolated
    from kan_md.data.reading import read_frames
    from kan_md.data.write import write_frames
    from kan_md.files import check_writable

    check_writable(output, overwrite=overwrite)
    calculator = KANCalculator(teacher)
    r_max = calculator.model.r_max
    frames, isolated = separate_isolated(read_frames(data), r_max)
    check_structures(frames, "set")
    made = list(
        perturb(
            frames,
            calculator,
            copies=copies,
            displacement=displacement,
            strain=strain,
            weight=weight,
            seed=seed,
            r_max=r_max,
            track=track_frames(frames, description="labelling"),
        )
    )
    write_frames(made, output, overwrite=overwrite)
    found = {"output": str(output), "frames": len(made), "isolated_left_out": len(isolated)}
    if as_json:
        typer.echo(json.dumps(found))
        return
    left_out = f", {len(isolated)} isolated atoms left out" if isolated else ""
    number = f"{len(made)} structures, {copies} of each of {len(frames)}"
    typer.echo(f"{output}: {number}, labelled by {teacher}{left_out}")


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
