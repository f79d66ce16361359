"""model.pth in, verified compiled file out."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, Unpack

import torch

from kan_md.contract import BACKENDS, Backend, Dtype
from kan_md.files import written_whole
from kan_md.model.checkpoint import Checkpoint, load_checkpoint
from kan_md.model.restrict import parse_elements, restrict
from kan_md.tasks.choose import task_of_checkpoint
from kan_md.tasks.judgement import Graph
from kan_md_deploy.compilation import compile_model
from kan_md_deploy.errors import NotCompiledError
from kan_md_deploy.judged_graphs import reference_graphs
from kan_md_deploy.options import Choices, Operators, check_choice, choose_options
from kan_md_deploy.output import SUFFIX, check_replaceable, output_path
from kan_md_deploy.runtime import DeployedModel, load_deployed
from kan_md_deploy.timing import median_times


@dataclass(frozen=True)
class Deployment:
    """What came of :func:`deploy_model`.

    Attributes:
        path: of the written file.
        trained_dtype: dtype of the model that was deployed.
        refused: backends that were tried and cannot compile the model, with their reasons.
    """

    path: Path
    trained_dtype: str
    refused: dict[str, str] = field(default_factory=dict)


def deploy(
    model_path: str | Path, output: str | Path | None = None, **choices: Unpack[Choices]
) -> Path:
    """Compile a trained model, hold it against the eager one, and write it.

    Args:
        model_path: ``model.pth``.
        output: file to write; beside ``model_path`` where ``None``.
        **choices: see :func:`deploy_model`.

    Returns:
        Path of the written file.

    Raises:
        KanMdError: an argument is not allowed, a file cannot be read or written, or the compiled
            model is not the trained one. Nothing is written then.
    """
    return deploy_model(model_path, output, **choices).path


def deploy_model(
    model_path: str | Path,
    output: str | Path | None = None,
    *,
    backend: Backend | Literal["auto"] | None = None,
    device: str = "cpu",
    dtype: Dtype | None = None,
    elements: Sequence[str] | str | None = None,
    passes: str = "default",
    bound: float | None = None,
    operators: Operators = "fused",
    static_shapes: bool | None = None,
    tf32: bool = False,
    overwrite: bool = False,
) -> Deployment:
    """Compile a trained model, hold it against the eager one, and write it.

    Args:
        model_path: ``model.pth``.
        output: file to write; beside ``model_path`` where ``None``.
        backend: ``torchscript``, ``aotinductor``, or ``auto``, which compiles with all that the
            backbone has and keeps what is faster on the reference frames. ``None``:
            ``torchscript``, and the next one where that cannot compile the model.
        device: ``cpu`` or ``cuda``.
        dtype: of the weights; where ``None`` the trained model's own, and ``float32`` of a model
            converted from another program's, unless a dtype was chosen there.
        elements: what to keep of a model of many elements; all of them where ``None``.
        passes: ``default``, ``none`` or names with commas.
        bound: error that approximating passes may make, relative to a function's range; 0 leaves
            them out. ``None``: 1e-6 for float32, 1e-10 for float64.
        operators: ``fused``, where they are built and the file is for a processor, or ``portable``,
            see :class:`kan_md_deploy.passes.base.PassContext`.
        static_shapes: make a file that a GPU can replay, see the same class; ``None``: where
            ``device`` is a GPU. Such a file is portable.
        tf32: let a GPU multiply float32 matrices with 10 bits of mantissa.
        overwrite: replace whatever is there; else only what was deployed from the same model.

    Raises:
        KanMdError: an argument is not allowed, a file cannot be read or written, or the compiled
            model is not the trained one. Nothing is written then.
    """
    model_path = Path(model_path)
    if backend is not None:
        check_choice("backend", backend, (*BACKENDS, "auto"))
    choices = {
        "device": device,
        "dtype": dtype,
        "passes": passes,
        "bound": bound,
        "operators": operators,
        "static_shapes": static_shapes,
        "tf32": tf32,
    }
    checkpoint = load_checkpoint(model_path)
    task = task_of_checkpoint(checkpoint)
    backends = task.backends
    tried = backends if backend in (None, "auto") else (backend,)
    if not overwrite:
        for name in tried[:1] if backend is None else tried:
            check_replaceable(output_path(model_path, output, name), model_path)
    chosen = parse_elements(elements)
    if chosen is not None:
        check_choice("kind of model for elements", task.kind, ("potential",))
        checkpoint = restrict(checkpoint, chosen)
    if backend == "auto" and len(backends) > 1:
        return _deploy_faster(checkpoint, model_path, output, backends, **choices)
    refused: dict[str, str] = {}
    for name in tried:
        try:
            path = _deploy_with(checkpoint, model_path, output, backend=name, **choices)
        except NotCompiledError as error:
            if name == tried[-1]:
                raise
            refused[name] = error.reason
        else:
            return Deployment(path, checkpoint.dtype, refused)
    raise AssertionError("the last backend returns or raises")


def _deploy_faster(
    checkpoint: Checkpoint,
    model_path: Path,
    output: str | Path | None,
    backends: tuple[Backend, ...],
    **choices: object,
) -> Deployment:
    """Deploy with every backend into a scratch folder and keep the fastest file."""
    with tempfile.TemporaryDirectory() as scratch:
        files: dict[Backend, Path] = {}
        refused: dict[str, str] = {}
        for name in backends:
            place = Path(scratch) / f"model{SUFFIX[name]}"
            try:
                files[name] = _deploy_with(checkpoint, model_path, place, backend=name, **choices)
            except NotCompiledError as error:
                if name == backends[-1] and not files:
                    raise
                refused[name] = error.reason
        graph = max(reference_graphs(checkpoint), key=lambda g: g[0].size(0))
        models = [load_deployed(file, str(choices["device"])) for file in files.values()]
        times = median_times([partial(_finished, model, graph) for model in models])
        fastest = list(files)[times.index(min(times))]
        target = output_path(model_path, output, fastest)
        with written_whole(target, make_folder=True) as temporary:
            shutil.copyfile(files[fastest], temporary)
    return Deployment(target, checkpoint.dtype, refused)


def _finished(model: DeployedModel, graph: Graph) -> torch.Tensor:
    """Evaluate, and wait for the result: a GPU gives its word before it has done the work."""
    return model(*graph)[1].cpu()


def _deploy_with(
    checkpoint: Checkpoint,
    model_path: Path,
    output: str | Path | None,
    *,
    backend: Backend,
    **choices: object,
) -> Path:
    options = choose_options(checkpoint, backend=backend, **choices)
    target = output_path(model_path, output, backend)
    with written_whole(target, make_folder=True) as temporary:
        compile_model(checkpoint, model_path, temporary, options)
    return target
