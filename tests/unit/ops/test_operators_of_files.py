"""What a deployed file says of the operators that it calls, and what a build lacks."""

import pytest
import torch
from manifests import as_of_before, calling_another, with_manifest

from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint
from kan_md.ops import library
from kan_md_deploy import load_deployed
from kan_md_deploy.archive import read_manifest
from kan_md_deploy.judged_graphs import reference_graphs

CALLED = {
    "allegro": {"kan_md::allegro"},
    "nequip": {"kan_md::messages_of_first", "kan_md::piecewise_sum"},
    "mace": {"kan_md::messages_of_first", "kan_md::piecewise_sum", "kan_md::polynomial"},
}


@pytest.mark.parametrize("backbone", CALLED)
def test_file_names_the_operators_that_it_calls(operators, deployed, backbone):
    fused = deployed(backbone, deploy={"operators": "fused", "bound": 1e-6})
    assert set(read_manifest(fused).operators) >= CALLED[backbone]
    assert read_manifest(deployed(backbone)).operators == ()


def test_file_of_before_gives_the_same(operators, tiny_checkpoint, deployed, tmp_path):
    new = deployed("allegro", deploy={"operators": "fused", "bound": 1e-6})
    old = with_manifest(new, tmp_path / "old.pth", as_of_before)
    assert read_manifest(old).operators is None
    graph = reference_graphs(load_checkpoint(tiny_checkpoint("allegro")))[0]
    for found, expected in zip(load_deployed(old)(*graph), load_deployed(new)(*graph), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_operator_that_the_library_lacks_is_named(operators, deployed, tmp_path):
    new = deployed("allegro", deploy={"operators": "fused", "bound": 1e-6})
    path = with_manifest(new, tmp_path / "later.pth", calling_another)
    with pytest.raises(
        KanMdError, match=r"got none of the name kan_md::of_tomorrow in .*; in"
    ) as e:
        load_deployed(path)
    assert "\n" not in str(e.value)


def test_file_of_before_needs_the_library_too(operators, deployed, tmp_path, monkeypatch):
    new = deployed("nequip", deploy={"operators": "fused", "bound": 1e-6})
    old = with_manifest(new, tmp_path / "old.pth", as_of_before)
    monkeypatch.setattr(library, "_is_registered", lambda: False)
    monkeypatch.setenv(library.OVERRIDE, str(tmp_path / "none.so"))
    for path in (old, new):
        with pytest.raises(KanMdError, match="no operator library"):
            load_deployed(path)
