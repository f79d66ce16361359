"""``kan-md init``: a model with fresh weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

Size = Literal["tiny", "small", "medium"]


def register(app: typer.Typer) -> None:
    """Add ``init`` to the command line."""
    app.command("init")(init)


def init(
    model_file: Annotated[
        Path | None,
        typer.Argument(
            help="Configuration file as for train, or one model's keys: backbone, r_max, readout "
            "and hyperparameters. Or --size.",
            metavar="[model.yaml]",
        ),
    ] = None,
    size: Annotated[
        Size | None,
        typer.Option(help="A local potential by its cost: MACE of one layer with a KAN."),
    ] = None,
    structure: Annotated[
        Path | None,
        typer.Option(help="Structure in any format of ASE: types, neighbours, check frame."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="With --size: write a configuration to train such a model."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="With --config: the structures to train on.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Model to write; model.pth by default.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Decides every weight; the file's, or 0, by default.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a model with fresh weights, or a configuration to train one of a chosen size.

    Example: kan-md init --size small --config config.yaml --data train.xyz
    """
    from kan_md.errors import user_error

    if (model_file is None) == (size is None):
        raise user_error(
            "what to make",
            found="a file and --size" if size else "neither a file nor --size",
            allowed="one of them",
            remedy="give model.yaml or --size small",
        )
    if size is not None and config is not None:
        _refuse({"--structure": structure, "--output": output, "--seed": seed}, "with --config")
        _write_config(size, config, data, overwrite=overwrite, as_json=as_json)
        return
    _refuse({"--config": config}, "without --size")
    _refuse({"--data": data}, "without --config")
    if structure is None:
        raise user_error(
            "fresh weights need a structure",
            found="no --structure",
            allowed=None,
            remedy="add --structure cell.xyz" + (", or --config config.yaml" if size else ""),
        )
    _write_model(
        _content(model_file, size),
        structure,
        output or Path("model.pth"),
        seed=seed,
        overwrite=overwrite,
        as_json=as_json,
    )


def _refuse(options: dict[str, object], where: str) -> None:
    from kan_md.errors import user_error

    for option, value in options.items():
        if value is not None:
            raise user_error(
                f"{option} has no effect {where}",
                found=value,
                allowed=None,
                remedy="leave it out, or see `kan-md init --help`",
            )


def _content(path: Path | None, size: Size | None) -> dict:
    from kan_md.config.sizes import size_content
    from kan_md.config.yaml_file import read_mapping

    if path is None:
        return size_content(size)
    return read_mapping(
        path, keys="sections as for train, or backbone, r_max, readout and hyperparameters"
    )


def _write_config(
    size: Size, path: Path, data: Path | None, *, overwrite: bool, as_json: bool
) -> None:
    from kan_md.config.sizes import config_for_data, size_text
    from kan_md.files import check_writable, write_text

    check_writable(path, overwrite=overwrite)
    text = size_text(size) if data is None else config_for_data(size, data, path.parent)
    write_text(path, text)
    if as_json:
        typer.echo(json.dumps({"config": str(path), "size": size}))
        return
    where = "" if data is not None else "; write your own file into data.train"
    typer.echo(f"{path}: size {size}{where}\nkan-md train {path} --output run")


def _write_model(
    content: dict,
    structure: Path,
    output: Path,
    *,
    seed: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    from kan_md.backbones.build import idle_hyperparameters
    from kan_md.backbones.readout import count_parameters
    from kan_md.backbones.readout_report import readout_lines
    from kan_md.benchmark.structures import read_structure
    from kan_md.config.model_file import read_model_file
    from kan_md.files import check_writable
    from kan_md.model.checkpoint import save_checkpoint
    from kan_md.tasks.untrained import make_untrained

    check_writable(output, overwrite=overwrite)
    model = read_model_file(content)
    checkpoint = make_untrained(
        model.backbone,
        [read_structure(structure)],
        seed=seed if seed is not None else model.seed or 0,
        **model.arguments,
    )
    save_checkpoint(checkpoint, output)
    count = count_parameters(checkpoint.build())
    if as_json:
        summary = {"output": str(output), "backbone": model.backbone, "parameters": count}
        typer.echo(json.dumps(summary | {"readouts": checkpoint.readouts}))
        return
    typer.echo(f"{output}: {model.backbone} with fresh weights, {count} parameters")
    idle = idle_hyperparameters(model.backbone, checkpoint.readout, model.arguments)
    for line in readout_lines(checkpoint.readouts, idle=idle):
        typer.echo(f"  {line}")
