"""Graphs come out as they went in, from memory and from a file that leaves nothing behind."""

import tempfile

import pytest
import torch

from kan_md.data.dataset import FramesDataset, make_loader
from kan_md.data.statistics import types_of
from kan_md.errors import KanMdError
from kan_md.tasks.targets import POTENTIAL_TARGETS


def dataset(frames, memory):
    targets = POTENTIAL_TARGETS
    return FramesDataset(frames, 3.2, type_names=types_of(frames), targets=targets, memory=memory)


@pytest.fixture
def frames(alloy_frames):
    """Two cells and between them atoms without neighbours or images, which have no edges."""
    lonely = alloy_frames[0].copy()
    lonely.calc = alloy_frames[0].calc
    lonely.set_cell(None)
    lonely.pbc = False
    lonely.positions *= 100.0
    return [alloy_frames[0], lonely, alloy_frames[1]]


def test_graphs_in_a_file_are_those_in_memory(frames, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept, filed = dataset(frames, 1e9), dataset(frames, 1.0)
    assert filed.data_list.in_file and not kept.data_list.in_file
    assert filed.data_list.num_edges == kept.data_list.num_edges
    assert filed.data_list.num_edges[1] == 0 < filed.data_list.num_edges[0]
    for one, other in zip(kept.data_list, filed.data_list, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype and one[name].shape == other[name].shape
            assert torch.equal(one[name].nan_to_num(-7.0), other[name].nan_to_num(-7.0)), name
    assert list(tmp_path.iterdir()) == []


def test_part_of_the_graphs_may_go_to_a_file(frames):
    """The limit is reached within the set."""
    size = dataset(frames[:1], 1e9).data_list.bytes
    found = dataset(frames, 1.5 * size).data_list
    whole = dataset(frames, 1e9).data_list
    assert found.in_file
    assert torch.equal(found[0]["pos"], whole[0]["pos"])
    assert torch.equal(found[-1]["edge_index"], whole[-1]["edge_index"])


def test_full_disk_is_told_and_leaves_nothing(frames, tmp_path, monkeypatch, files_up_to):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with (
        files_up_to(2000),
        pytest.raises(KanMdError, match=r"beyond data.graph_memory.*got a file"),
    ):
        dataset(frames, 1.0)
    assert list(tmp_path.iterdir()) == []


def test_batch_of_no_structure_counts_nowhere(frames):
    data = dataset(frames, 1e9)
    loader = make_loader(data, 1)
    batch = loader.collate_fn([])
    assert all(batch[target.field].isnan().all() for target in POTENTIAL_TARGETS)
    assert not any(data[i]["forces"].isnan().any() for i in range(3))  # the set is as it was
