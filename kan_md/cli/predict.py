"""``kan-md predict``: tensors of structures, written beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add ``predict`` to the command line."""
    app.command("predict")(predict)


def predict(
    model: Annotated[Path, typer.Argument(help="model.pth or deployed file.", metavar="MODEL")],
    data: Annotated[list[Path], typer.Argument(help="Structures.", metavar="DATA.xyz ...")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Extended XYZ file to write.")
    ] = Path("predicted.xyz"),
    prefix: Annotated[str, typer.Option(help="What names of predictions begin with.")] = "kan_",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON summary.")] = False,
) -> None:
    """Predict tensors (Born charges, ...) of structures and write them as extended XYZ.

    Example: kan-md predict run/model.pth structures.xyz -o predicted.xyz
    """
    from kan_md.cli.tables import track_frames
    from kan_md.data.checks import check_structures
    from kan_md.data.reading import read_frames
    from kan_md.data.write import write_frames
    from kan_md.evaluate.models import load_model
    from kan_md.files import check_writable

    check_writable(output, overwrite=overwrite)
    loaded = load_model(model, kind="tensor", device=device)
    targets = loaded.task.targets
    frames = read_frames(data)
    check_structures(frames, "set to predict")
    for atoms in track_frames(frames, description="predicting"):
        found = loaded.predict(atoms)
        for target in targets:
            value = found[target.name]
            if target.per == "atom":
                atoms.arrays[prefix + target.name] = value if value.shape[1] > 1 else value[:, 0]
            else:
                atoms.info[prefix + target.name] = float(value[0]) if value.size == 1 else value
    write_frames(frames, output, overwrite=overwrite)
    names = [prefix + target.name for target in targets]
    if as_json:
        typer.echo(json.dumps({"output": str(output), "structures": len(frames), "tensors": names}))
    else:
        typer.echo(f"{output}: {len(frames)} structures with {', '.join(names)}")
