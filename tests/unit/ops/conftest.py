"""Operators to test, and random graphs to test them on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kan_md.ops import is_built, load

SOURCES = Path(__file__).parents[3] / "kan_md" / "ops"


@pytest.fixture(scope="session")
def operators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """``torch.ops.kan_md``, from the cache of ``kan-md build`` or compiled here."""
    if not is_built():
        build = tmp_path_factory.mktemp("ops")
        subprocess.run(
            [
                "cmake",
                "-S",
                SOURCES,
                "-B",
                build,
                f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}",
            ],
            check=True,
            capture_output=True,
        )
        subprocess.run(["cmake", "--build", build, "-j2"], check=True, capture_output=True)
        os.environ["KAN_MD_OPS"] = str(build / "libkan_md_ops.so")
    load()
    yield torch.ops.kan_md


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        yield
