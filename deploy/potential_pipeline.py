"""Compiling a potential: passes, compiler, and the judgement on the file itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kan_md.backbones.scope import nequip_scope
from kan_md.contract import Backend, Manifest
from kan_md.model.device import set_tf32
from kan_md_deploy.aotinductor import compile_aotinductor, save_aotinductor
from kan_md_deploy.archive import sha256_of
from kan_md_deploy.frames import judged_graphs
from kan_md_deploy.manifest import describe_model
from kan_md_deploy.options import Options
from kan_md_deploy.output import write_judged
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.registry import run_passes
from kan_md_deploy.runtime import load_deployed
from kan_md_deploy.torchscript import compile_torchscript, save_torchscript
from kan_md_deploy.verify import Graph, check, deviation
from kan_md_deploy.wrapper import make_edge_model

if TYPE_CHECKING:
    from kan_md.model.checkpoint import Checkpoint


def compile_potential(
    checkpoint: Checkpoint, model_path: Path, temporary: Path, options: Options
) -> None:
    """Compile a potential and write it with its manifest.

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
        description, reference = describe_model(checkpoint, exact), make_edge_model(exact)
        eager = make_edge_model(checkpoint.build(options.dtype))
        rounding = {where: deviation(eager, reference, group) for where, group in groups.items()}
        model = checkpoint.build(options.dtype)
        context = PassContext(
            static_shapes=options.static_shapes,
            num_types=len(checkpoint.type_names),
            r_max=float(checkpoint.r_max),
            bound=options.bound,
            graphs=tuple(graphs),
            operators=options.operators,
        )
        manifest = Manifest(
            kan_md_version=version("kan-md"),
            torch_version=torch.__version__,
            backend=options.backend,
            device=options.device.split(":")[0],
            dtype=options.dtype,
            passes=run_passes(model, options.passes, context),
            num_reference_frames=len(graphs),
            static_shapes=options.static_shapes,
            tf32=options.tf32,
            threads=_baked_threads(options),
            model_sha256=sha256_of(model_path),
            **description,
        )
        edge_model = make_edge_model(model).to(options.device)
    set_tf32(options.tf32)
    example = max(graphs, key=lambda graph: graph[0].size(0))
    write = _compile(edge_model, options.backend, example=example)

    def judge(path: Path) -> Manifest:
        compiled = load_deployed(path, options.device)
        found = {where: deviation(compiled, reference, group) for where, group in groups.items()}
        for where, one in found.items():
            check(
                one,
                precision=manifest.precision,
                rounding=rounding[where],
                bound=options.bound,
                where=where,
            )
        on_frames = next(iter(found.values()))
        return replace(manifest, energy_error=on_frames.energy, force_error=on_frames.force)

    write_judged(temporary, write, manifest, judge)


def _baked_threads(options: Options) -> int:
    on_processor = options.backend == "aotinductor" and options.device == "cpu"
    return torch.get_num_threads() if on_processor else 0


def _compile(edge_model: torch.nn.Module, backend: Backend, *, example: Graph) -> Callable:
    """Compile, and return what writes the result to a path with a manifest."""
    if backend == "torchscript":
        return partial(save_torchscript, compile_torchscript(edge_model))
    return partial(save_aotinductor, compile_aotinductor(edge_model, example=example))
