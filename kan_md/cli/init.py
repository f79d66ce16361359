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
        Path, typer.Argument(help="YAML with backbone, r_max, readout and hyperparameters.")
    ],
    structure: Annotated[
        Path, typer.Option(help="Structure in any format of ASE: types, neighbours, check frame.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path(
        "model.pth"
    ),
    seed: Annotated[int, typer.Option(help="Decides every weight.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a model with fresh weights, to time an architecture before it is trained.

    Example: kan-md init model.yaml --structure cell.xyz -o fresh.pth && kan-md deploy fresh.pth
    """
    import yaml

    from kan_md.benchmark.structures import read_structure
    from kan_md.errors import user_error
    from kan_md.model.checkpoint import save_checkpoint
    from kan_md.model.untrained import make_untrained, read_arguments

    try:
        content = yaml.safe_load(config.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise user_error(
            "model file must be readable YAML",
            found=f"{config} ({str(error).splitlines()[0]})",
            allowed=None,
            remedy="write keys like `backbone: allegro`",
        ) from error
    if not isinstance(content, dict):
        raise user_error(
            "model file must be a mapping",
            found=f"{type(content).__name__} in {config}",
            allowed=None,
            remedy="write keys like `backbone: allegro`",
        )
    backbone, arguments = read_arguments(content)
    checkpoint = make_untrained(backbone, [read_structure(structure)], seed=seed, **arguments)
    save_checkpoint(checkpoint, output)
    count = sum(tensor.numel() for tensor in checkpoint.state_dict.values())
    if as_json:
        typer.echo(json.dumps({"output": str(output), "backbone": backbone, "numbers": count}))
    else:
        typer.echo(f"{output}: {backbone} with fresh weights, {count} numbers")
