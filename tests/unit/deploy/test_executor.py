"""Files are judged and timed by the code that LAMMPS runs."""

import re
from pathlib import Path

import pytest
import torch

from kan_md_deploy import aotinductor, torchscript

SOURCES = Path(__file__).parents[3] / "pair_styles" / "core"


def profiling_mode():
    mode = torch._C._jit_set_profiling_mode(True)
    torch._C._jit_set_profiling_mode(mode)
    return mode


@pytest.mark.parametrize("before", [True, False])
def test_a_loaded_file_runs_without_profiling_and_nothing_else_does(monkeypatch, before):
    seen = []

    def module(x):
        seen.append((profiling_mode(), torch._C._jit_can_fuse_on_gpu()))
        return (x,)

    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: module)
    mode = torch._C._jit_set_profiling_mode(before)
    try:
        function = torchscript.load_torchscript(Path("any.pth"), device="cpu")
        function(torch.zeros(1))
        assert seen == [(False, False)]
        assert profiling_mode() == before
    finally:
        torch._C._jit_set_profiling_mode(mode)


def test_the_same_call_gives_the_same_bits(tiny_checkpoint, tmp_path):
    """The profiling executor gives other last bits from the third call on."""
    from kan_md.model.checkpoint import load_checkpoint
    from kan_md_deploy import deploy, load_deployed
    from kan_md_deploy.judged_graphs import reference_graphs

    path = tiny_checkpoint("nequip")
    model = load_deployed(deploy(path, tmp_path / "x.pth", passes="none"))
    graph = reference_graphs(load_checkpoint(path))[0]
    first, *others = [model(*graph) for _ in range(4)]
    for other in others:
        for one, two in zip(first, other, strict=True):
            assert torch.equal(one, two)


def test_packages_are_loaded_without_locks_on_both_sides(monkeypatch, tmp_path):
    """Their events cannot be recorded by a graph of a GPU."""
    asked = {}
    monkeypatch.setattr(
        torch._inductor, "aoti_load_package", lambda *_, **keywords: asked.update(keywords)
    )
    (tmp_path / "x.pt2").write_bytes(b"")
    aotinductor.load_aotinductor(tmp_path / "x.pt2", device="cpu")
    assert asked["run_single_threaded"] is True
    source = (SOURCES / "backend_aotinductor.cpp").read_text()
    assert "RUN_SINGLE_THREADED = true" in source
    calls = re.findall(r"make_unique<AOTIModelPackageLoader>\([^;]*;", source)
    assert calls and all("RUN_SINGLE_THREADED" in call for call in calls)
