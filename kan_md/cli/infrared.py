"""``kan-md infrared``: from a dipole current to a spectrum."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add ``infrared`` to the command line."""
    app.command("infrared")(infrared)


def infrared(
    current: Annotated[
        Path, typer.Argument(help="Current written by sio2_infrared.in.", metavar="CURRENT.dat")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Figure: .png, .pdf, .svg; the numbers go beside it as .csv."
        ),
    ] = Path("infrared.png"),
    lines: Annotated[
        Path | None,
        typer.Option(
            help="Lines to compare with: YAML as quartz_infrared_lines.yaml of kan-md inputs."
        ),
    ] = None,
    resolution: Annotated[float, typer.Option(help="Width of a line, 1/cm.")] = 15.0,
    overwrite: Annotated[bool, typer.Option(help="Replace existing files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the peaks as JSON.")] = False,
) -> None:
    """Turn the dipole current of a trajectory into an infrared spectrum.

    Example: kan-md inputs . && kan-md lmp -in sio2_infrared.in -var model m.pth && kan-md infrared
    current.dat
    """
    import numpy as np
    from scipy.signal import find_peaks

    from kan_md.evaluate.infrared import absorption, read_current
    from kan_md.evaluate.spectrum import plot_spectrum, read_lines
    from kan_md.figures import check_figure_name
    from kan_md.files import check_writable, written_whole

    check_figure_name(output)
    table = output.with_suffix(".csv")
    for path in (output, table):
        check_writable(path, overwrite=overwrite)
    known = None if lines is None else read_lines(lines)
    series = read_current(current)
    wavenumber, alpha = absorption(series, resolution=resolution)
    spacing = wavenumber[1] - wavenumber[0]
    peaks, _ = find_peaks(
        alpha, height=0.05 * alpha.max(), distance=max(1, round(resolution / spacing))
    )
    duration = series.step * len(series.values)
    plot_spectrum(
        wavenumber,
        alpha,
        output,
        title=f"{duration:.3g} ps, {series.temperature:.0f} K, {series.volume:.0f} Å³, "
        f"lines {resolution:g} 1/cm wide",
        peaks=peaks,
        known=known,
    )
    with written_whole(table) as temporary:
        np.savetxt(
            temporary,
            np.stack([wavenumber, alpha], axis=1),
            fmt="%.6g",
            delimiter=",",
            header="wavenumber_per_cm,alpha_n_per_cm",
            comments="",
        )
    found = [{"wavenumber": wavenumber[p], "alpha_n": alpha[p]} for p in peaks]
    if as_json:
        typer.echo(json.dumps({"output": str(output), "table": str(table), "peaks": found}))
        return
    listed = ", ".join(f"{peak['wavenumber']:.0f}" for peak in found)
    typer.echo(f"{output}, {table}: peaks at {listed} 1/cm")
