"""Grids of functions on edges are fitted to the edges of some atoms, all of each."""

import pytest
import torch
from ase import Atoms
from nequip.data import AtomicDataDict

from kan_md.backbones.build import functions_are_on_edges, num_layers_of
from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.forms.replaced_module import with_module_replaced
from kan_md.kan.layer import KANLayer
from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.reference import model_input
from kan_md.train.some_centres import with_some_centres

NAMES = ["Cu", "Au"]


def batch_of(frames: list[Atoms]) -> AtomicDataDict.Type:
    graphs = [AtomicDataDict.with_batch_(model_input(f, 4.0, NAMES)) for f in frames]
    return AtomicDataDict.batched_from_list(graphs)


def inputs_of(model, batch) -> list[torch.Tensor]:
    """What the KAN layers of a model are given."""
    seen: list[torch.Tensor] = []
    layers = [m for m in model.modules() if isinstance(m, KANLayer)]
    hooks = [m.register_forward_pre_hook(lambda _, x: seen.append(x[0].detach())) for m in layers]
    with torch.no_grad():
        with_module_replaced(model, "model", model.model.func)(dict(batch))
    for hook in hooks:
        hook.remove()
    return seen


def test_inputs_on_the_edges_that_stay_are_those_of_the_whole_batch(tiny_checkpoint, alloy_frames):
    with nequip_settings():
        model = load_checkpoint(tiny_checkpoint("allegro", type_names=NAMES)).build()
    assert functions_are_on_edges("allegro") and num_layers_of(model, "allegro") == 1
    batch = batch_of(alloy_frames)
    index = batch[AtomicDataDict.EDGE_INDEX_KEY]
    some = with_some_centres(batch, index.shape[1] // 4)
    centres = some[AtomicDataDict.EDGE_INDEX_KEY][0].unique()
    kept = torch.isin(index[0], centres)  # all edges of a centre, or none
    assert torch.equal(index[:, kept], some[AtomicDataDict.EDGE_INDEX_KEY])
    assert 0.2 * len(kept) < kept.sum() < 0.35 * len(kept)
    for whole, part in zip(inputs_of(model, batch), inputs_of(model, some), strict=True):
        torch.testing.assert_close(part, whole[kept])


@pytest.mark.parametrize("most_edges", [40, 700])
def test_every_type_is_among_the_centres_in_its_share(alloy_frames, most_edges):
    """Two atoms in three are of one type, in an order that every third atom would show."""
    frame = alloy_frames[1].copy()
    frame.symbols[:] = "Cu"
    frame.symbols[::3] = "Au"
    batch = batch_of([frame] * 6)
    some = with_some_centres(batch, most_edges)
    centres = some[AtomicDataDict.EDGE_INDEX_KEY][0].unique()
    types = batch[AtomicDataDict.ATOM_TYPE_KEY].view(-1)[centres]
    gold = int((types == 1).sum())
    assert 0 < gold < len(types)
    assert abs(gold - len(types) * (frame.numbers == 79).mean()) <= 1
    again = with_some_centres(batch, most_edges)
    assert all(torch.equal(some[name], again[name]) for name in some)


def test_a_small_batch_stays_whole(alloy_frames):
    batch = batch_of(alloy_frames[:1])
    assert with_some_centres(batch, 10_000) is batch
