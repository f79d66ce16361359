"""TorchScript backend. The only file that knows TorchScript, so that it can leave with it.

``torch.jit`` is deprecated but not gone, and it is the only format that plain libtorch runs without
a compiler on the machine. nequip-compile refuses it for new versions of torch; scripting the model
with e3nn's helper works all the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from e3nn.util.jit import script

from kan_md.contract import CHOICE_METHOD, LISTS_METHOD, MANIFEST_KEY
from kan_md_deploy.errors import not_compiled


@contextmanager
def _warnings_silenced() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\..* is deprecated")
        warnings.filterwarnings("ignore", message=r".*`torch\.jit\..*` is deprecated")
        # Of e3nn's modules, which is no concern of whoever compiles them.
        warnings.filterwarnings(
            "ignore", message=".*TorchScript type system doesn't support instance-level annotations"
        )
        yield


def compile_torchscript(
    edge_model: torch.nn.Module, *, remedy: str = "deploy with --backend aotinductor"
) -> torch.jit.ScriptModule:
    """Script and freeze an :class:`~kan_md.tasks.potential_function.EdgeModel`.

    Freezing folds weights into constants; differentiation by the edge vectors stays.

    Args:
        edge_model: the model.
        remedy: what to do where this cannot be done.

    Raises:
        NotCompiledError: the model has a part that TorchScript does not take.
    """
    with _warnings_silenced():
        try:
            methods = (LISTS_METHOD, CHOICE_METHOD)
            kept = [name for name in methods if hasattr(edge_model, name)]
            return torch.jit.freeze(script(edge_model.eval()), preserved_attrs=kept)
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            raise not_compiled("TorchScript", error, remedy=remedy) from error


def save_torchscript(module: torch.jit.ScriptModule, path: Path, *, manifest: str) -> None:
    """Write a compiled module with its manifest as an extra file."""
    with _warnings_silenced():
        # Through memory: torch's own writer ends the process where a disk is full.
        path.write_bytes(module.save_to_buffer(_extra_files={MANIFEST_KEY: manifest}))


class TorchScriptFunction:
    """A compiled module that runs as it does in LAMMPS.

    Args:
        module: the module.

    Attributes:
        choose_types: makes the tables of some types, see :mod:`kan_md_deploy.chosen_types`; None
            where the file has all that it needs.
    """

    def __init__(self, module: torch.jit.ScriptModule):
        self._module = module
        self.choose_types = self._choose_types if hasattr(module, CHOICE_METHOD) else None

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Evaluate."""
        with executor_of_lammps():
            return self._module(*inputs)

    def _choose_types(self, types: list[int]) -> float:
        with executor_of_lammps(), torch.enable_grad():
            return getattr(self._module, CHOICE_METHOD)(types)


def load_torchscript(path: Path, *, device: str) -> TorchScriptFunction:
    """Read a compiled module onto a device."""
    with _warnings_silenced():
        return TorchScriptFunction(torch.jit.load(str(path), map_location=device))


@contextmanager
def executor_of_lammps() -> Iterator[None]:
    """TorchScript's executor as the pair styles have it (pair_styles/core/backend_torchscript.cpp).

    Without profiling every call runs the same code, so that a file is judged and timed by what
    LAMMPS will run; other modules of this process keep the executor that they had.
    """
    profiling = torch._C._jit_set_profiling_mode(False)
    fuses = torch._C._jit_can_fuse_on_gpu()
    torch._C._jit_override_can_fuse_on_gpu(False)
    try:
        yield
    finally:
        torch._C._jit_set_profiling_mode(profiling)
        torch._C._jit_override_can_fuse_on_gpu(fuses)
