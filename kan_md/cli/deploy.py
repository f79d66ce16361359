"""``kan-md deploy``: from model.pth to a file that LAMMPS runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from kan_md.contract import Manifest
    from kan_md.tasks.task import Task


def register(app: typer.Typer) -> None:
    """Add ``deploy`` to the command line."""
    app.command("deploy")(deploy)


def deploy(
    model: Annotated[Path, typer.Argument(help="Trained model.", metavar="MODEL.pth")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; beside MODEL by default.")
    ] = None,
    backend: Annotated[
        Literal["torchscript", "aotinductor", "auto"] | None,
        typer.Option(
            help="Compiler; auto measures both and keeps the faster. By default torchscript, and "
            "aotinductor for a model that TorchScript cannot compile."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[
        Literal["float32", "float64"] | None,
        typer.Option(
            help="Precision of the weights; as trained by default, float32 of a converted model."
        ),
    ] = None,
    elements: Annotated[
        str | None,
        typer.Option(
            help="Keep these elements of a model of many, e.g. --elements Si O: smaller and faster."
        ),
    ] = None,
    passes: Annotated[
        str, typer.Option(help="Optimisation passes: default, none, or names with commas.")
    ] = "default",
    bound: Annotated[
        float | None,
        typer.Option(
            help="Error that tables may make, relative to a function's range; "
            "by default 1e-6 in float32, 1e-10 in float64; 0 leaves tables out."
        ),
    ] = None,
    portable: Annotated[
        bool, typer.Option("--portable", help="The file needs nothing but libtorch.")
    ] = False,
    static_shapes: Annotated[
        bool,
        typer.Option(
            "--static-shapes",
            help="A file for a GPU, made on a machine without one: no shape depends on data, so "
            "that LAMMPS replays whole steps. What --device cuda gives anyway.",
        ),
    ] = False,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Let a GPU multiply with 10 bits of mantissa.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace any existing file. One that was deployed from the same MODEL.pth is "
            "replaced without.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compile a trained model for LAMMPS and check the file against the model.

    An existing output is replaced if it was deployed from the same model; --overwrite replaces any.

    Example: kan-md deploy model.pth -o ag.deployed.pth
    """
    from kan_md.tasks.choose import task_of_manifest
    from kan_md_deploy import deploy_model
    from kan_md_deploy.archive import read_manifest

    console = Console(stderr=True)
    with console.status("compiling"):
        result = deploy_model(
            model,
            output,
            backend=backend,
            device=device,
            dtype=dtype,
            elements=elements,
            passes=passes,
            bound=bound,
            operators="portable" if portable else "fused",
            static_shapes=static_shapes or None,
            tf32=tf32,
            overwrite=overwrite,
        )
    manifest = read_manifest(result.path)
    notes = []
    if device == "cpu" and not static_shapes and passes == "default" and not portable:
        notes += _notes_on_operators(manifest, with_tables=bound != 0.0)
    if passes == "default" and bound == 0.0:
        notes.append("a bound of 0 leaves the tables out; without --bound a step takes less time")
    for note in notes:
        console.print(f"note: {note}", highlight=False)
    if manifest.untrained_types:
        console.print(
            f"warning: no training structure had {', '.join(manifest.untrained_types)}: the file "
            "says random things of it",
            style="yellow",
        )
    task = task_of_manifest(manifest)
    summary = _summary(manifest, result.path, task)
    summary |= {"not_compiled": result.refused, "trained_dtype": result.trained_dtype}
    if as_json:
        typer.echo(json.dumps(summary))
        return
    table = Table(show_header=False)
    for name, text in _rows(summary, manifest, task):
        table.add_row(name, text)
    Console().print(table)


def _notes_on_operators(manifest: Manifest, *, with_tables: bool) -> list[str]:
    """What a file for processors could have had of the project's operators."""
    from kan_md.ops.library import is_built
    from kan_md_deploy.passes.registry import PASSES

    if not is_built():
        return ["no operators were built, so this file does without; run: kan-md build"]
    whole = f"fused_{manifest.backbone}"
    applied = {name for name, report in manifest.passes.items() if "skipped" not in report}
    known = {whole, "fused_local_mace"} & applied
    has_one = whole in {item.name for item in PASSES}
    if has_one and with_tables and not known:
        return [
            f"{whole} does not know every part of this model, so that a step takes several times "
            "as long as it could"
        ]
    return []


def _summary(manifest: Manifest, path: Path, task: Task) -> dict:
    left_out = {
        name: report["skipped"] for name, report in manifest.passes.items() if "skipped" in report
    }
    summary = {
        "output": str(path),
        "backbone": manifest.backbone,
        "backend": manifest.backend,
        "device": manifest.device,
        "dtype": manifest.precision,
        "types": list(manifest.type_names),
        "untrained_types": list(manifest.untrained_types),
        "passes": [name for name in manifest.passes if name not in left_out],
        "left_out": left_out,
        "energy_error": manifest.energy_error,
        "force_error": manifest.force_error,
        "num_reference_frames": manifest.num_reference_frames,
    }
    return summary | task.summary(manifest)


def _rows(summary: dict, manifest: Manifest, task: Task) -> Iterator[tuple[str, str]]:
    """The summary in words."""
    for name in ("output", "backbone", "backend", "device", "dtype"):
        yield name, summary[name]
    for backend, reason in summary["not_compiled"].items():
        yield f"not {backend}", f"which cannot compile this model: {reason}"
    if manifest.dtype != summary["trained_dtype"]:
        yield "precision", f"the model has {summary['trained_dtype']}, which --dtype keeps"
    if manifest.dtype == "float64":
        yield "faster", "--dtype float32 takes about half the time, with errors of about 1e-6"
    yield "types", " ".join(summary["types"])
    yield "passes", ", ".join(summary["passes"]) or "none"
    for name, reason in summary["left_out"].items():
        yield f"without {name}", reason
    yield from task.rows(manifest)
    yield "checked on", f"{manifest.num_reference_frames} reference frames"
