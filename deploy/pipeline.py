"""model.pth in, verified compiled file out."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Literal

from kan_md.contract import BACKENDS, Backend, Dtype
from kan_md.files import written_whole
from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.tensors import is_tensor_backbone
from kan_md_deploy.frames import reference_graphs
from kan_md_deploy.options import Operators, backends_of, check_choice, choose_options
from kan_md_deploy.output import SUFFIX, output_path
from kan_md_deploy.potential_pipeline import compile_potential
from kan_md_deploy.runtime import load_deployed
from kan_md_deploy.tensor_pipeline import compile_tensors
from kan_md_deploy.timing import median_times


def deploy(
    model_path: str | Path,
    output: str | Path | None = None,
    *,
    backend: Backend | Literal["auto"] = "torchscript",
    device: str = "cpu",
    dtype: Dtype | None = None,
    passes: str = "default",
    bound: float | None = None,
    operators: Operators = "portable",
    static_shapes: bool | None = None,
    tf32: bool = False,
) -> Path:
    """Compile a trained model, hold it against the eager one, and write it.

    Args:
        model_path: ``model.pth``.
        output: file to write; beside ``model_path`` where ``None``.
        backend: ``torchscript``, ``aotinductor``, or ``auto``, which compiles with all that the
            backbone has and keeps what is faster on the reference frames.
        device: ``cpu`` or ``cuda``.
        dtype: of the weights; the trained model's own where ``None``.
        passes: ``default``, ``none`` or names with commas.
        bound: error that approximating passes may make, relative to a function's range; 0 leaves
            them out. ``None``: 1e-6 for float32; 0 for float64, which is there for validation.
        operators: ``fused`` or ``portable``, see :class:`kan_md_deploy.passes.base.PassContext`.
        static_shapes: make a file that a GPU can replay, see the same class; ``None``: where
            ``device`` is a GPU. Such a file is portable.
        tf32: let a GPU multiply float32 matrices with 10 bits of mantissa.

    Returns:
        Path of the written file.

    Raises:
        KanMdError: an argument is not allowed, a file cannot be read or written, or the compiled
            model is not the trained one. Nothing is written then.
    """
    model_path = Path(model_path)
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
    if backend == "auto":
        backends = backends_of(load_checkpoint(model_path).backbone)
        if len(backends) > 1:
            return _deploy_faster(model_path, output, backends, **choices)
        (backend,) = backends
    return _deploy_with(model_path, output, backend=backend, **choices)


def _deploy_faster(
    model_path: Path,
    output: str | Path | None,
    backends: tuple[Backend, ...],
    **choices: object,
) -> Path:
    """Deploy with every backend into a scratch folder and keep the fastest file."""
    with tempfile.TemporaryDirectory() as scratch:
        files = [
            _deploy_with(
                model_path, Path(scratch) / f"model{SUFFIX[name]}", backend=name, **choices
            )
            for name in backends
        ]
        models = [load_deployed(file, str(choices["device"])) for file in files]
        graph = max(reference_graphs(load_checkpoint(model_path)), key=lambda g: g[0].size(0))
        times = median_times([partial(model, *graph) for model in models])
        fastest = times.index(min(times))
        target = output_path(model_path, output, backends[fastest])
        with written_whole(target, make_folder=True) as temporary:
            shutil.copyfile(files[fastest], temporary)
    return target


def _deploy_with(
    model_path: Path, output: str | Path | None, *, backend: Backend, **choices: object
) -> Path:
    checkpoint = load_checkpoint(model_path)
    options = choose_options(checkpoint, backend=backend, **choices)
    target = output_path(model_path, output, backend)
    is_tensor = is_tensor_backbone(checkpoint.backbone)
    with written_whole(target, make_folder=True) as temporary:
        compile_model = compile_tensors if is_tensor else compile_potential
        compile_model(checkpoint, model_path, temporary, options)
    return target
