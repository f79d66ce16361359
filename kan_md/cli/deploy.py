"""``kan-md deploy``: from model.pth to a file that LAMMPS runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table


def register(app: typer.Typer) -> None:
    """Add ``deploy`` to the command line."""
    app.command("deploy")(deploy)


def deploy(
    model: Annotated[Path, typer.Argument(help="Trained model.", metavar="MODEL.pth")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; beside MODEL by default.")
    ] = None,
    backend: Annotated[
        Literal["torchscript", "aotinductor", "auto"],
        typer.Option(help="Compiler; auto measures both and keeps the faster."),
    ] = "torchscript",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[
        Literal["float32", "float64"] | None,
        typer.Option(help="Precision of the weights; as trained by default."),
    ] = None,
    passes: Annotated[
        str, typer.Option(help="Optimisation passes: default, none, or names with commas.")
    ] = "default",
    bound: Annotated[
        float | None,
        typer.Option(
            help="Error that tables may make, relative to a function's range; "
            "1e-6 by default, none in float64."
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compile a trained model for LAMMPS and check the file against the model.

    Example: kan-md deploy model.pth -o ag.deployed.pth
    """
    from kan_md.ops.library import is_built
    from kan_md_deploy import deploy as run
    from kan_md_deploy.archive import read_manifest

    console = Console(stderr=True)
    with console.status("compiling"):
        path = run(
            model,
            output,
            backend=backend,
            device=device,
            dtype=dtype,
            passes=passes,
            bound=bound,
            operators="portable" if portable else "fused",
            static_shapes=static_shapes or None,
            tf32=tf32,
        )
    manifest = read_manifest(path)
    left_out = {
        name: report["skipped"] for name, report in manifest.passes.items() if "skipped" in report
    }
    for_cpu = device == "cpu" and not static_shapes
    if for_cpu and passes == "default" and not portable and not is_built():
        console.print("note: no operators were built, so this file does without; run: kan-md build")
    whole = f"fused_{manifest.backbone}"
    wanted = for_cpu and passes == "default" and not portable and is_built()
    with_tables = manifest.kind == "potential" and manifest.dtype == "float32"
    if wanted and with_tables and whole not in manifest.passes:
        console.print(
            f"note: {whole} does not know every part of this model, so that a step takes several "
            "times as long as it could"
        )
    if manifest.untrained_types:
        console.print(
            f"warning: no training structure had {', '.join(manifest.untrained_types)}: the file "
            "says random things of it",
            style="yellow",
        )
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
    if manifest.kind == "tensor":
        summary["tensors"] = manifest.outputs["tensors"]
        summary["tensor_error"] = manifest.outputs["error"]
    if as_json:
        typer.echo(json.dumps(summary))
        return
    table = Table(show_header=False)
    for key in ("output", "backbone", "backend", "device", "dtype"):
        table.add_row(key, summary[key])
    table.add_row("types", " ".join(manifest.type_names))
    table.add_row("passes", ", ".join(summary["passes"]) or "none")
    for name, reason in left_out.items():
        table.add_row(f"without {name}", reason)
    if manifest.kind == "tensor":
        table.add_row("tensors", ", ".join(manifest.outputs["tensors"]))
        table.add_row("error", f"{manifest.outputs['error']:.1e} of the largest component")
    else:
        table.add_row("energy error", f"{manifest.energy_error:.1e} eV/atom")
        table.add_row("force error", f"{manifest.force_error:.1e} of the largest force")
    table.add_row("checked on", f"{manifest.num_reference_frames} reference frames")
    Console().print(table)
