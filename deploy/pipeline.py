"""model.pth in, verified compiled file out."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from kan_md.backbones.scope import nequip_scope
from kan_md.contract import BACKENDS, DTYPES, Backend, Dtype, Manifest
from kan_md.errors import KanMdError, user_error
from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.device import check_device, set_tf32
from kan_md.model.tensors import is_tensor_backbone
from kan_md_deploy.aotinductor import compile_aotinductor, save_aotinductor
from kan_md_deploy.archive import seal, sha256_of
from kan_md_deploy.frames import reference_graphs
from kan_md_deploy.manifest import describe_model
from kan_md_deploy.passes.base import PassContext
from kan_md_deploy.passes.registry import choose_passes, run_passes
from kan_md_deploy.runtime import load_deployed
from kan_md_deploy.tensor_pipeline import compile_tensors
from kan_md_deploy.timing import median_times
from kan_md_deploy.torchscript import compile_torchscript, save_torchscript
from kan_md_deploy.verify import Graph, check, deviation
from kan_md_deploy.wrapper import EdgeModel, make_edge_model

if TYPE_CHECKING:
    from kan_md.model.checkpoint import Checkpoint

_BOUND = {"float32": 1e-6, "float64": 0.0}
SUFFIX = {"torchscript": ".deployed.pth", "aotinductor": ".deployed.pt2"}


def deploy(
    model_path: str | Path,
    output: str | Path | None = None,
    *,
    backend: Backend | Literal["auto"] = "torchscript",
    device: str = "cpu",
    dtype: Dtype | None = None,
    passes: str = "default",
    bound: float | None = None,
    operators: Literal["fused", "portable"] = "portable",
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
    _check_choice("backend", backend, (*BACKENDS, "auto"))
    options = {
        "device": device,
        "dtype": dtype,
        "passes": passes,
        "bound": bound,
        "operators": operators,
        "static_shapes": static_shapes,
        "tf32": tf32,
    }
    if backend == "auto":
        backends = _backends_of(load_checkpoint(model_path).backbone)
        if len(backends) > 1:
            return _deploy_faster(model_path, output, backends, **options)
        (backend,) = backends
    return _deploy_with(model_path, output, backend=backend, **options)


def _backends_of(backbone: str) -> tuple[Backend, ...]:
    """Compilers that models of a backbone go through."""
    return ("torchscript",) if is_tensor_backbone(backbone) else BACKENDS


def _deploy_faster(
    model_path: Path,
    output: str | Path | None,
    backends: tuple[Backend, ...],
    **options: object,
) -> Path:
    """Deploy with every backend into a scratch folder and keep the fastest file."""
    with tempfile.TemporaryDirectory() as scratch:
        files = [
            _deploy_with(
                model_path, Path(scratch) / f"model{SUFFIX[name]}", backend=name, **options
            )
            for name in backends
        ]
        models = [load_deployed(file, str(options["device"])) for file in files]
        graph = max(reference_graphs(load_checkpoint(model_path)), key=lambda g: g[0].size(0))
        times = median_times([partial(model, *graph) for model in models])
        fastest = times.index(min(times))
        target = _output_path(model_path, output, backends[fastest])
        handle, temporary = _temporary_beside(target)
        os.close(handle)
        try:
            shutil.copyfile(files[fastest], temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return target


def _deploy_with(
    model_path: Path,
    output: str | Path | None,
    *,
    backend: Backend,
    device: str,
    dtype: Dtype | None,
    passes: str,
    bound: float | None,
    operators: Literal["fused", "portable"],
    static_shapes: bool | None,
    tf32: bool,
) -> Path:
    chosen = choose_passes(passes)
    checkpoint = load_checkpoint(model_path)
    dtype = dtype or checkpoint.dtype
    _check_choice("dtype", dtype, DTYPES)
    check_device(device)
    if bound is not None and not 0.0 <= bound < 1.0:
        raise user_error(
            "bound of the tables", found=bound, allowed="0 <= bound < 1", remedy="change --bound"
        )
    bound = _BOUND[dtype] if bound is None else bound
    if tf32 and (device == "cpu" or dtype != "float32"):
        raise user_error(
            "TF32 is for float32 models on a GPU",
            found=f"{dtype} on {device}",
            allowed="--device cuda --dtype float32",
            remedy="leave --tf32 out",
        )
    static_shapes = device != "cpu" if static_shapes is None else static_shapes
    if device != "cpu" or static_shapes:
        operators = "portable"  # the project's are for processors
    output = _output_path(model_path, output, backend)
    if is_tensor_backbone(checkpoint.backbone):
        if static_shapes and device == "cpu":
            raise user_error(
                "shapes of a model of triplets depend on the structure",
                found=f"--static-shapes for {checkpoint.backbone}",
                allowed="potentials",
                remedy="leave --static-shapes out",
            )
        return _deploy_tensors(
            checkpoint,
            model_path,
            output,
            backend=backend,
            device=device,
            dtype=dtype,
            passes=chosen,
            bound=bound,
            operators=operators,
            tf32=tf32,
        )
    static_shapes = static_shapes or backend == "aotinductor"
    graphs = reference_graphs(checkpoint)
    with nequip_scope():
        description, reference = _reference(checkpoint)
        model = checkpoint.build(dtype)
        eager = deviation(make_edge_model(checkpoint.build(dtype)), reference, graphs)
        context = PassContext(
            static_shapes=static_shapes,
            num_types=len(checkpoint.type_names),
            r_max=float(checkpoint.r_max),
            bound=bound,
            graphs=tuple(graphs),
            operators=operators,
        )
        reports = run_passes(model, chosen, context)
        manifest = Manifest(
            kan_md_version=version("kan-md"),
            torch_version=torch.__version__,
            backend=backend,
            device=device.split(":")[0],
            dtype=dtype,
            passes=reports,
            num_reference_frames=len(graphs),
            static_shapes=static_shapes,
            tf32=tf32,
            threads=torch.get_num_threads() if (backend, device) == ("aotinductor", "cpu") else 0,
            model_sha256=sha256_of(model_path),
            **description,
        )
        edge_model = make_edge_model(model)
    return _write_verified(
        edge_model,
        manifest,
        output,
        graphs=graphs,
        reference=reference,
        rounding=eager.force,
        bound=bound,
    )


def _deploy_tensors(
    checkpoint: Checkpoint,
    model_path: Path,
    output: Path,
    *,
    backend: Backend,
    **options: object,
) -> Path:
    """The same for a model of tensor properties."""
    backends = _backends_of(checkpoint.backbone)
    if backend not in backends:
        raise user_error(
            f"backend for {checkpoint.backbone}",
            found=backend,
            allowed=", ".join(backends),
            remedy="leave --backend out",
        )
    handle, temporary = _temporary_beside(output)
    os.close(handle)
    try:
        compile_tensors(checkpoint, model_path, temporary, **options)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return output


def _reference(checkpoint: Checkpoint) -> tuple[dict, EdgeModel]:
    """Eager model in float64: the judge of what follows, and what the manifest says of it."""
    exact = checkpoint.build("float64")
    return describe_model(checkpoint, exact), make_edge_model(exact)


def _write_verified(
    edge_model: EdgeModel,
    manifest: Manifest,
    output: Path,
    *,
    graphs: list[Graph],
    reference: EdgeModel,
    rounding: float,
    bound: float,
) -> Path:
    """Compile, judge the file itself, then put it in place in one step."""
    handle, temporary = _temporary_beside(output)
    os.close(handle)
    try:
        set_tf32(manifest.tf32)
        example = max(graphs, key=lambda graph: graph[0].size(0))
        write = _compile(edge_model.to(manifest.device), manifest.backend, example=example)
        write(temporary, manifest=manifest.to_text())
        seal(temporary)
        found = deviation(load_deployed(temporary, manifest.device), reference, graphs)
        check(found, precision=manifest.precision, rounding=rounding, bound=bound)
        measured = replace(manifest, energy_error=found.energy, force_error=found.force)
        write(temporary, manifest=measured.to_text())
        seal(temporary)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return output


def _compile(edge_model: EdgeModel, backend: Backend, *, example: Graph) -> Callable[..., None]:
    """Compile, and return what writes the result to a path with a manifest."""
    if backend == "torchscript":
        return partial(save_torchscript, compile_torchscript(edge_model))
    return partial(save_aotinductor, compile_aotinductor(edge_model, example=example))


def _temporary_beside(output: Path) -> tuple[int, Path]:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.is_dir():
            raise IsADirectoryError(21, "is a directory")
        handle, name = tempfile.mkstemp(
            dir=output.parent, prefix=f".{output.stem}.", suffix=output.suffix
        )
        Path(name).chmod(0o644)  # mkstemp's own choice keeps everyone else out
    except OSError as error:
        raise KanMdError(
            f"cannot write {output}, got {error.strerror}; choose another -o"
        ) from error
    return handle, Path(name)


def _output_path(model_path: Path, output: str | Path | None, backend: str) -> Path:
    if output is None:
        return model_path.with_name(model_path.stem + SUFFIX[backend])
    output = Path(output)
    if output.resolve() == model_path.resolve():
        raise user_error(
            "output would overwrite the trained model",
            found=output,
            allowed=None,
            remedy="choose another -o",
        )
    return output


def _check_choice(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise user_error(
            f"unknown {what}",
            found=repr(value),
            allowed=", ".join(allowed),
            remedy=f"correct --{what}",
        )
