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
        Path, typer.Option("--output", "-o", help="Figure; the numbers go beside it as .csv.")
    ] = Path("infrared.png"),
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

    from kan_md.evaluate.infrared import (
        absorption,
        check_figure_name,
        plot_spectrum,
        read_current,
    )
    from kan_md.files import check_writable, written_whole

    check_figure_name(output)
    table = output.with_suffix(".csv")
    for path in (output, table):
        check_writable(path, overwrite=overwrite)
    series = read_current(current)
    wavenumber, alpha = absorption(series, resolution=resolution)
    duration = series.step * len(series.values)
    plot_spectrum(
        wavenumber,
        alpha,
        output,
        title=f"{duration:.3g} ps, {series.temperature:.0f} K, {series.volume:.0f} Å³",
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
    spacing = wavenumber[1] - wavenumber[0]
    peaks, _ = find_peaks(
        alpha, height=0.05 * alpha.max(), distance=max(1, round(resolution / spacing))
    )
    found = [{"wavenumber": wavenumber[p], "alpha_n": alpha[p]} for p in peaks]
    if as_json:
        typer.echo(json.dumps({"output": str(output), "table": str(table), "peaks": found}))
        return
    listed = ", ".join(f"{peak['wavenumber']:.0f}" for peak in found)
    typer.echo(f"{output}, {table}: peaks at {listed} 1/cm")
