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
            help="YAML with backbone, r_max, readout and hyperparameters.", metavar="model.yaml"
        ),
    ],
    structure: Annotated[
        Path, typer.Option(help="Structure in any format of ASE: types, neighbours, check frame.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path(
        "model.pth"
    ),
    seed: Annotated[int, typer.Option(help="Decides every weight.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a model with fresh weights, to time an architecture before it is trained.

    Example: kan-md init model.yaml --structure cell.xyz -o fresh.pth && kan-md deploy fresh.pth
    """
    from kan_md.benchmark.structures import read_structure
    from kan_md.config.yaml_file import read_mapping
    from kan_md.files import check_writable
    from kan_md.model.checkpoint import save_checkpoint
    from kan_md.model.untrained import make_untrained, read_arguments

    content = read_mapping(config, keys="backbone, r_max, readout and hyperparameters")
    check_writable(output, overwrite=overwrite)
    backbone, arguments = read_arguments(content)
    checkpoint = make_untrained(backbone, [read_structure(structure)], seed=seed, **arguments)
    save_checkpoint(checkpoint, output)
    count = sum(tensor.numel() for tensor in checkpoint.state_dict.values())
    if as_json:
        typer.echo(json.dumps({"output": str(output), "backbone": backbone, "numbers": count}))
    else:
        typer.echo(f"{output}: {backbone} with fresh weights, {count} numbers")
