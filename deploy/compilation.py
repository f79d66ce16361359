"""Compiling one model with one backend: passes, compiler, and the judgement on the file itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.contract import Manifest
from kan_md.model.device import set_tf32
from kan_md.tasks.choose import task_of_checkpoint
from kan_md.tasks.judgement import Graph, Remembered, as_it_is, with_ghosts
from kan_md_deploy.aotinductor import compile_aotinductor, save_aotinductor
from kan_md_deploy.archive import sha256_of
from kan_md_deploy.chosen_types import EdgeModelOfChosen, with_choice
from kan_md_deploy.judged_graphs import few_types, judged_graphs, reference_graphs
from kan_md_deploy.manifest import describe_model
from kan_md_deploy.on_lists import with_lists
from kan_md_deploy.options import Options
from kan_md_deploy.output import write_judged
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.message_passing.plain_layers import exchange_between_layers
from kan_md_deploy.passes.registry import run_passes
from kan_md_deploy.passes.tables.size import MOST_IN_FILE
from kan_md_deploy.runtime import load_deployed
from kan_md_deploy.torchscript import compile_torchscript, save_torchscript

if TYPE_CHECKING:
    from kan_md.model.checkpoint import Checkpoint


def compile_model(
    checkpoint: Checkpoint, model_path: Path, temporary: Path, options: Options
) -> None:
    """Compile a model and write it with its manifest.

    Args:
        checkpoint: of the trained model.
        model_path: where it came from.
        temporary: file to write; left unfinished where this raises.
        options: what the file is to be.

    Raises:
        KanMdError: the compiled model is not the trained one.
    """
    task = task_of_checkpoint(checkpoint)
    graphs = reference_graphs(checkpoint)
    with nequip_settings():
        exact = checkpoint.build("float64")
        description = describe_model(checkpoint, exact, task)
        reference = Remembered(task.edge_model(exact))
        edge_model, manifest = rewritten_model(checkpoint, options, description, graphs)
        manifest = replace(manifest, model_sha256=sha256_of(model_path))
        groups = _judged(edge_model, checkpoint)
        same = options.dtype == "float64"
        eager = reference if same else task.edge_model(checkpoint.build(options.dtype))
    # Not within the settings: in another default dtype constants of upstream's ZBL are others.
    rounding = {
        at: task.deviation(eager, reference, group, variants=as_it_is)
        for at, group in groups.items()
    }
    # An atom is a ghost whatever its type: one group is enough to judge that.
    variants = dict.fromkeys(groups, as_it_is) | {next(iter(groups)): with_ghosts}
    set_tf32(options.tf32)
    example = max(graphs, key=lambda graph: graph[0].size(0))
    others = [name for name in task.backends if name != options.backend]
    write = _compile(edge_model, options, example=example, others=others)

    def judge(path: Path) -> Manifest:
        compiled = load_deployed(path, options.device)
        found = {
            at: task.deviation(compiled, reference, group, variants=variants[at])
            for at, group in groups.items()
        }
        for where, one in found.items():
            task.check(
                one,
                rounding=rounding[where],
                precision=manifest.precision,
                bound=options.bound,
                where=where,
            )
        return task.with_errors(manifest, next(iter(found.values())))

    write_judged(temporary, write, manifest, judge)


def rewritten_model(
    checkpoint: Checkpoint, options: Options, description: dict[str, Any], graphs: list[Graph]
) -> tuple[torch.nn.Module, Manifest]:
    """The model after the passes, as the function that is compiled, and what is known of it.

    Args:
        checkpoint: of the trained model.
        options: what it is to become.
        description: of :func:`kan_md_deploy.manifest.describe_model`.
        graphs: of the reference frames.
    """
    task = task_of_checkpoint(checkpoint)
    model = checkpoint.build(options.dtype)
    context = PassContext(
        static_shapes=options.static_shapes,
        num_types=len(checkpoint.type_names),
        r_max=float(checkpoint.r_max),
        bound=options.bound,
        graphs=tuple(_measured(checkpoint, graphs)),
        operators=options.operators,
        task=task,
    )
    manifest = Manifest(
        kan_md_version=version("kan-md"),
        torch_version=torch.__version__,
        kind=task.kind,
        backend=options.backend,
        device=options.device.split(":")[0],
        dtype=options.dtype,
        passes=run_passes(model, options.passes, context),
        num_reference_frames=len(graphs),
        static_shapes=options.static_shapes,
        tf32=options.tf32,
        threads=_baked_threads(options),
        **description,
    )
    exchange_between_layers(model, context)
    edge_model = with_choice(with_lists(task.edge_model(model))).to(options.device)
    return edge_model, manifest


def _measured(checkpoint: Checkpoint, graphs: list[Graph]) -> list[Graph]:
    """Where passes say what they change: of many types, tables are made for every pair met."""
    if len(checkpoint.type_names) ** 2 <= MOST_IN_FILE:
        return graphs
    return next(iter(few_types(checkpoint).values()))


def _judged(edge_model: torch.nn.Module, checkpoint: Checkpoint) -> dict[str, list[Graph]]:
    makes_tables = isinstance(edge_model, EdgeModelOfChosen)
    return few_types(checkpoint) if makes_tables else judged_graphs(checkpoint)


def _baked_threads(options: Options) -> int:
    on_processor = options.backend == "aotinductor" and options.device == "cpu"
    return torch.get_num_threads() if on_processor else 0


def _compile(
    edge_model: torch.nn.Module, options: Options, *, example: Graph, others: list[str]
) -> Callable[..., None]:
    """Compile, and return what writes the result to a path with a manifest."""
    if options.backend == "aotinductor":
        return partial(save_aotinductor, compile_aotinductor(edge_model, example=example))
    remedy = f"deploy with --backend {others[0]}" if others else "train a model without this part"
    return partial(save_torchscript, compile_torchscript(edge_model, remedy=remedy))
