"""A trained backbone under a fresh readout, and training the readout alone."""

import pytest
import torch

from kan_md.backbones import build_model
from kan_md.backbones.transfer import freeze_all_but_readouts, is_readout, transfer_weights
from kan_md.errors import KanMdError
from kan_md.model.reference import model_input

SMALL = {
    "allegro": {"l_max": 1, "num_layers": 1, "num_scalar_features": 4},
    "nequip": {"l_max": 1, "num_layers": 2, "num_features": 4},
    "mace": {"hidden_irreps": "4x0e", "max_ell": 1, "correlation": 1, "radial_MLP": [4]},
}


def build(backbone: str, readout: str, seed: int, **changes):
    arguments = {**SMALL[backbone], **changes}
    return build_model(
        backbone,
        seed=seed,
        model_dtype="float64",
        type_names=["Cu", "Au"],
        r_max=4.0,
        avg_num_neighbors=10.0,
        readout=readout,
        **arguments,
    )


@pytest.mark.parametrize("backbone", SMALL)
def test_backbone_is_copied_and_readout_is_fresh(backbone):
    old, new = build(backbone, "mlp", 1), build(backbone, "kan", 2)
    start = {name: value.clone() for name, value in new.state_dict().items()}
    transfer = transfer_weights(new, old, backbone=backbone)
    state = new.state_dict()
    assert transfer.fresh
    for name in transfer.fresh:
        assert is_readout(name, backbone)
        assert torch.equal(state[name], start[name])
    for name in transfer.taken:
        assert torch.equal(state[name], old.state_dict()[name])
    assert any(not torch.equal(start[name], state[name]) for name in transfer.taken)


@pytest.mark.parametrize("backbone", SMALL)
def test_only_the_readout_trains_after_freezing(backbone, triclinic):
    model = build(backbone, "kan", 1)
    trainable = freeze_all_but_readouts(model, backbone=backbone)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    model.train()
    model(model_input(triclinic, 4.0, ["Cu", "Au"]))["forces"].square().sum().backward()
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert moved <= set(trainable)


@pytest.mark.parametrize("backbone", SMALL)
def test_another_architecture_is_refused(backbone):
    changes = {"mace": {"hidden_irreps": "6x0e"}, "nequip": {"num_features": 6}}
    old = build(backbone, "kan", 1, **changes.get(backbone, {"num_scalar_features": 6}))
    with pytest.raises(KanMdError, match=f"do not fit the {backbone} model at .*hyperparameters"):
        transfer_weights(build(backbone, "kan", 1), old, backbone=backbone)
