"""Kernels of every level of processors give the same numbers, and the variable chooses them.

The kernels that the other tests run, the best ones of this processor, are held against independent
models there.
"""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kan_md.builds.kernels import CPU_VARIABLE, OPERATORS_NAME, built_levels, try_kernels
from kan_md.errors import KanMdError
from kan_md.ops import is_built, load
from kan_md.ops.library import library_path

ELEMENTS = ("Cu", "Au")
MODELS = {
    "allegro": {},
    "nequip": {},
    "mace": {},
    "mace of one layer": {"num_interactions": 1},
}
FUSED = {
    "float64": ({"operators": "fused", "bound": 1e-9}, 1e-10),
    "float32": ({"operators": "fused", "dtype": "float32"}, 2e-5),
}
"""Arguments of the deploy step, and what may differ relative to the largest number: the order of
sums and fused multiplications are the compiler's."""


@pytest.fixture(scope="module")
def build():
    if not is_built():
        pytest.skip("needs the operators: kan-md build")
    return library_path().parent


@pytest.fixture(scope="module")
def levels(build):
    """Levels of the build that this processor has, the best one first."""
    best = try_kernels(build)
    built = built_levels(build)
    assert best in built
    return built[built.index(best) :: -1]


@pytest.fixture(scope="module")
def job(deployed, tiny_checkpoint, alloy_frames, tmp_path_factory):
    folder = tmp_path_factory.mktemp("levels")
    load()
    (folder / "frames").write_bytes(pickle.dumps(alloy_frames[:2]))
    files, checkpoints = {}, {}
    for name, keywords in MODELS.items():
        arguments = (name.split()[0],), {"type_names": ELEMENTS} | keywords
        checkpoints[name] = str(tiny_checkpoint(*arguments[0], **arguments[1]))
        for dtype, (options, _) in FUSED.items():
            path = deployed(*arguments[0], deploy=options, **arguments[1])
            files[f"{name}, {dtype}"] = str(path)
    return {"deployed": files, "checkpoints": checkpoints, "frames": str(folder / "frames")}


def run(job, level, folder):
    path = folder / f"{level}.json"
    result = folder / f"{level}.npz"
    path.write_text(json.dumps(job | {"result": str(result)}))
    worker = Path(__file__).with_name("levels_worker.py")
    subprocess.run(
        [sys.executable, str(worker), str(path)],
        env=os.environ | {CPU_VARIABLE: level},
        check=True,
    )
    return dict(np.load(result))


def test_every_level_gives_the_same_numbers(job, levels, tmp_path):
    if len(levels) < 2:
        pytest.skip(f"this processor has one level of the build, {levels[0]}")
    best, *others = (run(job, level, tmp_path) for level in levels)
    assert [str(found.pop("level")) for found in (best, *others)] == levels
    assert len(best) > 50
    for found, level in zip(others, levels[1:], strict=True):
        assert found.keys() == best.keys()
        for name, expected in best.items():
            tolerance = FUSED["float32" if "float32" in name else "float64"][1]
            scale = max(float(np.abs(expected).max()), 1e-3)
            error = float(np.abs(found[name] - expected).max()) / scale
            assert error < tolerance, f"{level}, {name}: {error:.1e}"


def test_levels_are_of_different_code(build, levels):
    """Otherwise the test above compares a library with itself."""
    contents = {(build / f"libkan_md_kernels-{level}.so").read_bytes() for level in levels}
    assert len(contents) == len(levels)


def test_a_level_that_is_none_of_this_processors_is_refused(build, levels, monkeypatch):
    monkeypatch.setenv(CPU_VARIABLE, "x86-64-v9")
    with pytest.raises(KanMdError) as error:
        try_kernels(build)
    expected = f"{CPU_VARIABLE} must be a level of this processor, got x86-64-v9; allowed: "
    assert expected + ", ".join(levels) in str(error.value)


def test_kernels_that_are_gone_are_told(build, levels, tmp_path, monkeypatch):
    (tmp_path / OPERATORS_NAME).write_bytes((build / OPERATORS_NAME).read_bytes())
    monkeypatch.setenv(CPU_VARIABLE, levels[-1])
    with pytest.raises(KanMdError, match=rf"need their kernels, got .*-{levels[-1]}\.so.*--force"):
        try_kernels(tmp_path)
