"""``kan-md init``: a model with fresh weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add ``init`` to the command line."""
    app.command("init")(init)


def init(
    config: Annotated[
        Path,
        typer.Argument(
            help="Configuration file as for train, or one model's keys: backbone, r_max, readout "
            "and hyperparameters.",
            metavar="model.yaml",
        ),
    ],
    structure: Annotated[
        Path, typer.Option(help="Structure in any format of ASE: types, neighbours, check frame.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path(
        "model.pth"
    ),
    seed: Annotated[
        int | None, typer.Option(help="Decides every weight; the file's, or 0, by default.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a model with fresh weights, to time an architecture before it is trained.

    Example: kan-md init model.yaml --structure cell.xyz -o fresh.pth && kan-md deploy fresh.pth
    """
    from kan_md.backbones.build import idle_hyperparameters
    from kan_md.backbones.readout_report import readout_lines
    from kan_md.benchmark.structures import read_structure
    from kan_md.config.model_file import read_model_file
    from kan_md.config.yaml_file import read_mapping
    from kan_md.files import check_writable
    from kan_md.model.checkpoint import save_checkpoint
    from kan_md.tasks.untrained import make_untrained

    content = read_mapping(
        config, keys="sections as for train, or backbone, r_max, readout and hyperparameters"
    )
    check_writable(output, overwrite=overwrite)
    model = read_model_file(content)
    checkpoint = make_untrained(
        model.backbone,
        [read_structure(structure)],
        seed=seed if seed is not None else model.seed or 0,
        **model.arguments,
    )
    save_checkpoint(checkpoint, output)
    count = sum(tensor.numel() for tensor in checkpoint.state_dict.values())
    if as_json:
        summary = {"output": str(output), "backbone": model.backbone, "numbers": count}
        typer.echo(json.dumps(summary | {"readouts": checkpoint.readouts}))
        return
    typer.echo(f"{output}: {model.backbone} with fresh weights, {count} numbers")
    idle = idle_hyperparameters(model.backbone, checkpoint.readout, model.arguments)
    for line in readout_lines(checkpoint.readouts, idle=idle):
        typer.echo(f"  {line}")
