"""Loading libkan_md_ops into this process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from kan_md.builds.cache import cache_dir
from kan_md.builds.find import find_build
from kan_md.builds.kernels import OPERATORS_NAME, kernels_failure, kernels_level
from kan_md.errors import KanMdError
from kan_md.ops import function_sums

OVERRIDE = "KAN_MD_OPS"
"""Environment variable with the path of a library to use instead of the cache's."""


def library_path() -> Path | None:
    """Where the library for this environment is; None where none was built, or it is damaged."""
    override = os.environ.get(OVERRIDE)
    if override:
        return Path(override)
    build = find_build()
    return build / OPERATORS_NAME if build else None


def is_built() -> bool:
    """Whether :func:`load` would find a library."""
    path = library_path()
    return path is not None and path.is_file()


def load() -> None:
    """Register the operators as ``torch.ops.kan_md``; a second call does nothing.

    Raises:
        KanMdError: no library was built for this torch, it does not load, or it has no kernels for
            this processor.
    """
    if _is_registered():
        return
    path = library_path()
    if path is None or not path.is_file():
        where = path or f"whole one for torch {torch.__version__} in {cache_dir()}"
        raise KanMdError(f"no operator library, got no {where}; run: kan-md build")
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise KanMdError(
            f"operator library {path} does not fit torch {torch.__version__}, got {error}; "
            "run: kan-md build --force"
        ) from error
    failure = kernels_failure(path)
    if failure:
        raise KanMdError(failure)


def level() -> str:
    """Level of processors of the kernels in use, e.g. ``x86-64-v3``; after :func:`load`."""
    path = library_path()
    return kernels_level(path) if path else ""


def require(names: Sequence[str]) -> None:
    """Refuse to go on without an operator.

    Args:
        names: with their namespace, of operators of the library that is loaded.

    Raises:
        KanMdError: the library is of an older version and lacks some.
    """
    missing = [name for name in names if not torch._C._jit_get_schemas_for_operator(name)]
    if missing:
        raise KanMdError(
            f"operators that the file calls, got none of the name {', '.join(missing)} in "
            f"{library_path()}; install the kan-md that made the file and run: kan-md build --force"
        )


@contextmanager
def operators_in_layers() -> Iterator[bool]:
    """Let eager KAN layers compute with the operators where a library is built that has them.

    Yields:
        Whether they do; they compute with plain torch if not.
    """
    available = _has_layer_kernels()
    before = function_sums.use_operators(torch.ops.kan_md if available else None)
    try:
        yield available
    finally:
        function_sums.use_operators(before)


def _has_layer_kernels() -> bool:
    try:
        load()
    except KanMdError:  # not built, or for another torch
        return False
    return hasattr(torch.ops.kan_md, "function_moments")  # not in libraries of older sources


def _is_registered() -> bool:
    """Whether the operators are there, kernels included."""
    name = "kan_md::convolution"
    return hasattr(torch.ops.kan_md, "convolution") and bool(
        torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU")
    )
