"""Says what a build was made for."""

from __future__ import annotations

from pathlib import Path

from kan_md.builds.cache import made_of
from kan_md.builds.kernels import CPU_VARIABLE, built_levels, try_kernels


def describe(folder: Path) -> dict[str, str]:
    """What a build is for, by name; loads its operators once, which shows that they do.

    Raises:
        KanMdError: they do not load, or none are for this processor.
    """
    record = made_of(folder) or {}
    parts = {
        "plug-in": str(folder),
        "LAMMPS": f"{record.get('LAMMPS')} in {record.get('folder of LAMMPS')}",
        "MPI": str(record.get("MPI")),
        "torch": f"{record.get('torch')} in {record.get('folder of torch')}",
    }
    if cuda := record.get("headers of CUDA"):
        parts["CUDA"] = f"headers in {cuda}"
    parts["operators"] = (
        f"for {', '.join(built_levels(folder))}; this processor takes {try_kernels(folder)} "
        f"({CPU_VARIABLE} names another)"
    )
    return parts
