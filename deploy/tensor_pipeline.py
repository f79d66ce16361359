"""Deploying a tensor model: the tensor side of :mod:`kan_md_deploy.pipeline`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from nequip.nn import GraphModel

from kan_md.backbones.build import num_layers_of
from kan_md.backbones.scope import nequip_scope
from kan_md.contract import Manifest
from kan_md.model.tensors import tensors_of
from kan_md_deploy.archive import sha256_of
from kan_md_deploy.frames import reference_graphs
from kan_md_deploy.options import Options
from kan_md_deploy.output import write_judged
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.registry import run_passes
from kan_md_deploy.tensor_runtime import load_deployed_tensors
from kan_md_deploy.tensor_wrapper import describe_outputs, make_tensor_edge_model
from kan_md_deploy.torchscript import compile_torchscript, save_torchscript
from kan_md_deploy.verify import Graph, allowed_error, hold, with_ghosts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kan_md.model.checkpoint import Checkpoint

TOLERANCE = {"float64": 1e-9, "float32": 2e-5, "tf32": 1e-2}
"""Largest |compiled - eager float64| of a component, relative to the largest component."""


def compile_tensors(
    checkpoint: Checkpoint, model_path: Path, temporary: Path, options: Options
) -> None:
    """Compile a tensor model and write it with its manifest.

    Args:
        checkpoint: of the trained model.
        model_path: where it came from.
        temporary: file to write; left unfinished where this raises.
        options: what the file is to be.

    Raises:
        KanMdError: the compiled model is not the trained one.
    """
    graphs = reference_graphs(checkpoint)
    with nequip_scope():
        exact = checkpoint.build("float64")
        reference = make_tensor_edge_model(exact)
        eager = make_tensor_edge_model(checkpoint.build(options.dtype))
        rounding = tensor_deviation(eager, reference, graphs)
        model = checkpoint.build(options.dtype)
        context = PassContext(
            static_shapes=options.static_shapes,
            num_types=len(checkpoint.type_names),
            r_max=float(checkpoint.r_max),
            bound=options.bound,
            graphs=tuple(graphs),
            operators=options.operators,
            kind="tensor",
            change=change_of_tensors,
        )
        manifest = replace(
            _describe(checkpoint, exact, device=options.device, dtype=options.dtype),
            passes=run_passes(model, options.passes, context),
            static_shapes=options.static_shapes,
            tf32=options.tf32,
            num_reference_frames=len(graphs),
            model_sha256=sha256_of(model_path),
        )
        edge_model = make_tensor_edge_model(model).to(options.device)
    module = compile_torchscript(edge_model)

    def judge(path: Path) -> Manifest:
        compiled = load_deployed_tensors(path, options.device)
        found = tensor_deviation(compiled, reference, graphs)
        tolerance = TOLERANCE[manifest.precision]
        hold(
            found,
            allowed_error(tolerance, rounding=rounding, bound=options.bound),
            found=f"relative error {found:.1e}",
            precision=manifest.precision,
        )
        return replace(manifest, outputs=manifest.outputs | {"error": found})

    write_judged(temporary, partial(save_torchscript, module), manifest, judge)


def change_of_tensors(
    after: GraphModel, before: GraphModel, graphs: Sequence[Graph]
) -> dict[str, float]:
    """What rewriting a tensor model changed on some graphs, relative to the largest component."""
    after, before = make_tensor_edge_model(after), make_tensor_edge_model(before)
    return {"tensor_change": tensor_deviation(after, before, graphs)}


def tensor_deviation(function: Callable, reference: Callable, graphs: Sequence[Graph]) -> float:
    """Largest difference relative to the largest component, also with half of the atoms ghosts."""
    difference = scale = 0.0
    for whole in graphs:
        for graph in with_ghosts(whole):
            (actual,), (expected,) = function(*graph), reference(*graph)
            worst = (actual.cpu() - expected).abs().max().item()
            difference = worst if worst != worst else max(difference, worst)
            scale = max(scale, expected.abs().max().item())
    return difference / max(scale, torch.finfo(torch.float64).tiny) if difference else 0.0


def _describe(checkpoint: Checkpoint, model: torch.nn.Module, *, device: str, dtype: str):
    names = tuple(checkpoint.type_names)
    elements = checkpoint.elements
    zeros = (0.0,) * len(names) ** 2
    distances = checkpoint.statistics.get("min_distances")
    distances = zeros if distances is None else torch.as_tensor(distances).flatten().tolist()
    return Manifest(
        kind="tensor",
        kan_md_version=version("kan-md"),
        torch_version=torch.__version__,
        backend="torchscript",
        device=device.split(":")[0],
        dtype=dtype,
        backbone=checkpoint.backbone,
        r_max=float(checkpoint.r_max),
        num_layers=num_layers_of(model, backbone=checkpoint.backbone),
        type_names=names,
        atomic_numbers=elements.atomic_numbers,
        masses=elements.masses,
        cutoffs=(float(checkpoint.r_max),) * len(names) ** 2,
        min_distances=tuple(float(d) for d in distances),
        isolated_energies=(0.0,) * len(names),
        readout=checkpoint.readout.model_dump(mode="json"),
        outputs=describe_outputs(model, tensors_of(checkpoint)),
    )
