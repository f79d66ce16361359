"""What a deployed file is to be: the choices of the user, checked and completed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

from kan_md.contract import BACKENDS, DTYPES, Backend, Dtype
from kan_md.errors import user_error
from kan_md.model.device import check_device
from kan_md.tasks.choose import task_of_checkpoint
from kan_md_deploy.passes.base import Pass
from kan_md_deploy.passes.registry import choose_passes

if TYPE_CHECKING:
    from kan_md.model.checkpoint import Checkpoint

Operators = Literal["fused", "portable"]

BOUND = {"float32": 1e-6, "float64": 1e-10}
"""Lets the passes work in either dtype, within the tolerance of the dtype."""


class Choices(TypedDict, total=False):
    """What a user may choose; see :func:`kan_md_deploy.deploy_model`."""

    backend: Backend | Literal["auto"] | None
    device: str
    dtype: Dtype | None
    elements: Sequence[str] | str | None
    passes: str
    bound: float | None
    operators: Operators
    static_shapes: bool | None
    tf32: bool
    overwrite: bool


@dataclass(frozen=True, kw_only=True)
class Options:
    """Choices that fit together; see :func:`kan_md_deploy.deploy` for their meaning."""

    backend: Backend
    device: str
    dtype: Dtype
    passes: Sequence[Pass]
    bound: float
    operators: Operators
    static_shapes: bool
    tf32: bool


def choose_options(
    checkpoint: Checkpoint,
    *,
    backend: Backend,
    device: str,
    dtype: Dtype | None,
    passes: str,
    bound: float | None,
    operators: Operators,
    static_shapes: bool | None,
    tf32: bool,
) -> Options:
    """Check what was chosen for a model, and choose the rest.

    Raises:
        KanMdError: a choice is not allowed, or not together with another or with the model.
    """
    dtype = dtype or default_dtype(checkpoint)
    check_choice("backend", backend, BACKENDS)
    check_choice("dtype", dtype, DTYPES)
    check_device(device, without="add --static-shapes to make a file for a GPU on this machine")
    if bound is not None and not 0.0 <= bound < 1.0:
        raise user_error(
            "bound of the tables", found=bound, allowed="0 <= bound < 1", remedy="change --bound"
        )
    if tf32 and (device == "cpu" or dtype != "float32"):
        raise user_error(
            "TF32 is for float32 models on a GPU",
            found=f"{dtype} on {device}",
            allowed="--device cuda --dtype float32",
            remedy="leave --tf32 out",
        )
    for_gpu = device != "cpu" if static_shapes is None else static_shapes
    task = task_of_checkpoint(checkpoint)
    if backend not in task.backends:
        raise user_error(
            f"backend for {checkpoint.backbone}",
            found=backend,
            allowed=", ".join(task.backends),
            remedy="leave --backend out",
        )
    if static_shapes and not task.can_be_static:
        raise user_error(
            "shapes of a model of triplets depend on the structure",
            found=f"--static-shapes for {checkpoint.backbone}",
            allowed="potentials",
            remedy="leave --static-shapes out",
        )
    return Options(
        backend=backend,
        device=device,
        dtype=dtype,
        passes=choose_passes(passes),
        bound=BOUND[dtype] if bound is None else bound,
        # The project's operators are for processors.
        operators="portable" if for_gpu or device != "cpu" else operators,
        static_shapes=task.can_be_static and (for_gpu or backend == "aotinductor"),
        tf32=tf32,
    )


def default_dtype(checkpoint: Checkpoint) -> Dtype:
    """The dtype that the user chose in training or converting; else the fast one.

    Other programs train in float64 by default, which says nothing of what a run needs.
    """
    summary = checkpoint.training_summary
    not_chosen = "converted_from" in summary and not summary.get("dtype_chosen", False)
    return "float32" if not_chosen else checkpoint.dtype


def check_choice(what: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is none of the allowed ones.

    Raises:
        KanMdError: it is not.
    """
    if value not in allowed:
        raise user_error(
            f"unknown {what}",
            found=repr(value),
            allowed=", ".join(allowed),
            remedy=f"correct --{what}",
        )
