"""``kan-md benchmark``: deployed models side by side in LAMMPS."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def register(app: typer.Typer) -> None:
    """Add ``benchmark`` to the command line."""
    app.command("benchmark")(benchmark)


def benchmark(
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Deployed models, each FILE or LABEL=FILE.", metavar="FILE..."),
    ] = None,
    structure: Annotated[
        Path | None,
        typer.Option(help="Structure in any format of ASE; default 71 Ag atoms with a vacancy."),
    ] = None,
    supercell: Annotated[
        tuple[int, int, int], typer.Option(help="Repeat the structure along a, b, c.")
    ] = (1, 1, 1),
    steps: Annotated[int, typer.Option(help="Timed steps of each run.")] = 5000,
    warmup: Annotated[int, typer.Option(help="Steps before, not counted.")] = 100,
    repeats: Annotated[int, typer.Option(help="Independent runs of each model.")] = 1,
    blocks: Annotated[
        int,
        typer.Option(help="Turns (A B A B ...) that a run is cut into; 1: one after the other."),
    ] = 10,
    vs: Annotated[
        str | None,
        typer.Option(help="Control: a label, a file, or a readout kind (mlp, linear, kan)."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Add a classical potential of LAMMPS: eam (Ag only).")
    ] = None,
    pair_style: Annotated[
        Literal["allegro", "nequip"] | None,
        typer.Option(help="Of files of nequip-compile that do not say."),
    ] = None,
    ranks: Annotated[int, typer.Option(help="MPI ranks.")] = 1,
    threads: Annotated[int, typer.Option(help="OpenMP threads per rank.")] = 1,
    temperature: Annotated[float, typer.Option(help="K.")] = 300.0,
    timestep: Annotated[float, typer.Option(help="fs.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the velocities.")] = 1,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for report.json, report.png, report.md, logs."),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(help="Figure: .png, .pdf, .svg; default report.png in the folder."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Time deployed models side by side in LAMMPS: NVT, same structure, same velocities, in turn.

    Example: kan-md benchmark kan.deployed.pth mlp.deployed.pth --vs mlp --output timing
    """
    from rich.console import Console

    from kan_md.benchmark.compare import Conditions, compare
    from kan_md.benchmark.figure import save_report_figure
    from kan_md.benchmark.models import (
        baseline_entry,
        deployed_entry,
        find_control,
        with_unique_labels,
    )
    from kan_md.benchmark.progress import show_progress
    from kan_md.benchmark.report import phase_table, screen_table
    from kan_md.benchmark.store import check_folder, save_report
    from kan_md.benchmark.structures import read_structure, silver
    from kan_md.errors import user_error
    from kan_md.figures import check_figure_name
    from kan_md.files import check_writable

    entries = [deployed_entry(file, pair_style=pair_style) for file in files or []]
    if baseline is not None:
        entries.append(baseline_entry(baseline))
    if not entries:
        raise user_error(
            "benchmark needs a model",
            found="none",
            allowed="deployed files or --baseline eam",
            remedy="run `kan-md deploy model.pth` and name its output",
        )
    entries = with_unique_labels(entries)
    control = None if vs is None else find_control(entries, vs)
    if min(supercell) < 1:
        raise user_error(
            "supercell must be at least 1 1 1",
            found=supercell,
            allowed=None,
            remedy="set --supercell",
        )
    atoms = (silver() if structure is None else read_structure(structure)).repeat(supercell)
    conditions = Conditions(
        steps=steps,
        blocks=min(blocks, steps),
        repeats=repeats,
        warmup=warmup,
        ranks=ranks,
        threads=threads,
        temperature=temperature,
        timestep=timestep,
        seed=seed,
    )
    if output is not None:
        check_folder(output)
    if figure is not None:
        check_figure_name(figure, option="--figure")
        check_writable(figure, overwrite=True)
    with show_progress(entries, conditions) as progress:
        report = compare(
            entries,
            atoms,
            conditions=conditions,
            control=control,
            folder=None if output is None else output / "runs",
            progress=progress,
        )
    if output is not None:
        save_report(report, output, name="report", figure=figure)
    elif figure is not None:
        save_report_figure(report, figure)
    if as_json:
        typer.echo(report.to_json())
        return
    console = Console()
    console.print(screen_table(report))
    console.print(phase_table(report))
    if output is not None:
        console.print(
            f"{output}: report.md, report.json, {figure or 'report.png'}; LAMMPS inputs and logs "
            f"in {output / 'runs'}",
            highlight=False,
        )
