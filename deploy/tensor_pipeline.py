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
from kan_md_deploy.frames import judged_graphs
from kan_md_deploy.manifest import describe_untrained
from kan_md_deploy.options import Options
from kan_md_deploy.output import write_judged
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.registry import run_passes
from kan_md_deploy.tensor_runtime import load_deployed_tensors
from kan_md_deploy.tensor_wrapper import describe_outputs, make_tensor_edge_model
from kan_md_deploy.torchscript import compile_torchscript, save_torchscript
from kan_md_deploy.verify import Graph, allowed_error, hold, isolated_atoms, with_ghosts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kan_md.model.checkpoint import Checkpoint

TOLERANCE = {"float64": 1e-9, "float32": 2e-5, "tf32": 1e-2}
"""Largest |compiled - eager float64| of a component, relative to the tensor's largest component."""

_ZERO = 1e-6
"""Part of the largest component of any tensor below which another one counts as zero."""


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
    groups = judged_graphs(checkpoint)
    graphs = next(iter(groups.values()))  # the reference frames
    with nequip_scope():
        exact = checkpoint.build("float64")
        reference = make_tensor_edge_model(exact)
        eager = make_tensor_edge_model(checkpoint.build(options.dtype))
        columns = _columns_of(describe_outputs(exact, tensors_of(checkpoint)))
        rounding = {
            where: tensor_deviations(eager, reference, group, columns)
            for where, group in groups.items()
        }
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
    module = compile_torchscript(edge_model, remedy="train a model without this part")

    def judge(path: Path) -> Manifest:
        compiled = load_deployed_tensors(path, options.device)
        tolerance = TOLERANCE[manifest.precision]
        worst = []
        for where, group in groups.items():
            found = tensor_deviations(compiled, reference, group, columns)
            for name, error in found.items():
                allowed = allowed_error(
                    tolerance, rounding=rounding[where][name], bound=options.bound
                )
                hold(
                    error,
                    allowed,
                    found=f"relative error {error:.1e} of {name}",
                    precision=manifest.precision,
                    where=where,
                )
            worst.append(max(found.values()))
        return replace(manifest, outputs=manifest.outputs | {"error": worst[0]})

    write_judged(temporary, partial(save_torchscript, module), manifest, judge)


def change_of_tensors(
    after: GraphModel, before: GraphModel, graphs: Sequence[Graph]
) -> dict[str, float]:
    """What rewriting a tensor model changed on some graphs, relative to the largest component."""
    after, before = make_tensor_edge_model(after), make_tensor_edge_model(before)
    return {"tensor_change": tensor_deviation(after, before, graphs)}


def tensor_deviation(function: Callable, reference: Callable, graphs: Sequence[Graph]) -> float:
    """Largest difference relative to the largest component, see :func:`tensor_deviations`."""
    return tensor_deviations(function, reference, graphs, {"all": slice(None)})["all"]


def tensor_deviations(
    function: Callable,
    reference: Callable,
    graphs: Sequence[Graph],
    columns: Mapping[str, slice],
) -> dict[str, float]:
    """Largest difference of each tensor, relative to its largest component.

    Graphs are tried with half of the atoms ghosts, with half without edges, and every type alone.

    Args:
        function: what is judged.
        reference: what it should be, in float64.
        graphs: inputs of both.
        columns: of each tensor, by name.
    """
    differences, scales = dict.fromkeys(columns, 0.0), dict.fromkeys(columns, 0.0)
    types = torch.cat([graph[2] for graph in graphs]).unique()
    variants = [variant for whole in graphs for variant in with_ghosts(whole)]
    for graph in (*variants, isolated_atoms(types)):
        (actual,), (expected,) = function(*graph), reference(*graph)
        actual = actual.cpu()
        for name, part in columns.items():
            worst = (actual[:, part] - expected[:, part]).abs().max().item()
            before = differences[name]
            differences[name] = worst if worst != worst else max(before, worst)
            scales[name] = max(scales[name], expected[:, part].abs().max().item())
    # A tensor that symmetry makes zero has no size of its own.
    least = max(_ZERO * max(scales.values()), torch.finfo(torch.float64).tiny)
    return {name: value / max(scales[name], least) for name, value in differences.items()}


def _columns_of(outputs: dict) -> dict[str, slice]:
    """Columns of each tensor in the rows of a manifest's ``outputs``."""
    return {
        name: slice(entry["first_column"], entry["first_column"] + entry["num_columns"])
        for name, entry in outputs["tensors"].items()
    }


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
        outputs=describe_outputs(model, tensors_of(checkpoint)) | describe_untrained(checkpoint),
    )
