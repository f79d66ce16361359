"""AOTInductor backend. The only file that knows torch.export and inductor.

The graph that is compiled holds the derivative as plain operations: ``make_fx`` unrolls the call of
autograd in the deployed forward. The project's operators stay calls; their Meta kernels in
kan_md/ops/library.cpp say the shapes. Numbers of atoms and edges stay symbolic, from two upwards: a
caller with fewer pads with edges beyond the cutoff. On CPUs inductor bakes in the number of threads
that the export ran with; the manifest records it.
"""

from __future__ import annotations

import io
import itertools
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch._decomp import core_aten_decompositions
from torch.fx.experimental import _config as symbolic_config
from torch.fx.experimental.proxy_tensor import make_fx

from kan_md.contract import MANIFEST_KEY
from kan_md.tasks.judgement import Graph
from kan_md_deploy.errors import not_compiled

FEWEST = 2
"""Smallest number of atoms and of edges that an exported graph accepts."""


def compile_aotinductor(edge_model: torch.nn.Module, *, example: Graph) -> bytes:
    """Export and compile an :class:`~kan_md.tasks.potential_function.EdgeModel`.

    Args:
        edge_model: frozen, on the device that it is compiled for.
        example: inputs with at least a few atoms and edges.

    Returns:
        Content of the package.

    Raises:
        NotCompiledError: the model has a part that cannot be exported, or there is no working C++
            compiler (for a GPU, no triton).
    """
    device = next(itertools.chain(edge_model.buffers(), edge_model.parameters())).device
    inputs = tuple(tensor.to(device) for tensor in example)
    atoms = torch.export.Dim("num_atoms", min=FEWEST)
    edges = torch.export.Dim("num_edges", min=FEWEST)
    with _quiet(), _no_duck_shapes(), tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "model.pt2"
        try:
            graph = make_fx(
                edge_model,
                tracing_mode="symbolic",
                decomposition_table=core_aten_decompositions(),
                _allow_non_fake_inputs=True,
                _error_on_data_dependent_ops=True,
            )(*inputs)
            program = torch.export.export(
                graph, inputs, dynamic_shapes=({0: edges}, {1: edges}, {0: atoms}, None)
            )
            torch._inductor.aoti_compile_and_package(program, package_path=str(package))
        except Exception as error:  # torch has a hundred kinds of them, without a common one
            raise not_compiled(
                "AOTInductor",
                error,
                remedy="install a C++ compiler (for a GPU also triton) or deploy with "
                "--backend torchscript",
            ) from error
        return package.read_bytes()


def save_aotinductor(package: bytes, path: Path, *, manifest: str) -> None:
    """Write a compiled package with its manifest as one more entry."""
    path.write_bytes(package)
    with zipfile.ZipFile(path, "a", compression=zipfile.ZIP_STORED) as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/extra/{MANIFEST_KEY}", manifest)


def load_aotinductor(path: Path, *, device: str) -> Callable:
    """Load a package as a function of the contract's four inputs, padded where it must be."""
    # By its name torch loads files ending in .pt2 alone without complaint.
    source = str(path) if path.suffix == ".pt2" else io.BytesIO(path.read_bytes())
    index = torch.device(device).index  # none for the processor, and for "the" GPU
    # As the pair styles run it.
    package = torch._inductor.aoti_load_package(
        source, run_single_threaded=True, device_index=-1 if index is None else index
    )

    def run(
        vectors: torch.Tensor, index: torch.Tensor, types: torch.Tensor, num_local: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        num_edges, num_atoms = vectors.size(0), types.size(0)
        missing_atoms = max(0, FEWEST - num_atoms)
        missing_edges = max(0, FEWEST - num_edges)
        if missing_atoms:
            types = torch.cat([types, types.new_zeros(missing_atoms)])
        if missing_edges:
            # Far beyond any cutoff, around the last atom: the order by centre stays.
            far = vectors.new_tensor([[1e3, 0.0, 0.0]]).expand(missing_edges, 3)
            last = torch.full((2, missing_edges), types.size(0) - 1, device=index.device)
            vectors, index = torch.cat([vectors, far]), torch.cat([index, last], dim=1)
        energy, edge_forces = package(vectors.contiguous(), index.contiguous(), types, num_local)
        return energy[:num_atoms], edge_forces[:num_edges]

    return run


@contextmanager
def _no_duck_shapes() -> Iterator[None]:
    """Keep dimensions apart that happen to be equal in the example."""
    before = symbolic_config.use_duck_shape
    symbolic_config.use_duck_shape = False
    try:
        yield
    finally:
        symbolic_config.use_duck_shape = before


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield
