"""KANs and controls at every site: gradients, TorchScript, seeds."""

import pytest
import torch
from ase import Atoms
from e3nn.util.jit import script
from etgnn_support import R_MAX, TENSORS, TYPES, predict

from kan_md.backbones.etgnn import num_layers, sites
from kan_md.backbones.readout import count_parameters
from kan_md.errors import KanMdError
from kan_md.kan.network import KAN
from kan_md.model.reference import model_input

# One of each kind: scripting takes a second per tensor where its readout is a KAN.
SOME = tuple(t for t in TENSORS if t["name"] in ("vector", "bec", "susceptibility"))
READOUTS = [
    "linear",
    "mlp",
    {"basis": "gaussian"},
    {"basis": "bspline", "sites": "heads"},
    {"basis": "fourier", "sites": ["heads", "edge_up"]},
    {"basis": "gaussian", "sites": ["node_up"]},
    {"basis": "bspline", "sites": "all"},
]


@pytest.mark.parametrize("readout", READOUTS, ids=str)
def test_no_parameter_is_dead(build, crystal, readout):
    """Every weight moves the loss of random labels (float64, so that no gradient underflows)."""
    model = build(tensors=TENSORS, readout=readout, num_layers=1)
    out = model(model_input(crystal, R_MAX, TYPES))
    generator = torch.Generator().manual_seed(0)
    fields = ["born_effective_charges", *(t["name"] for t in TENSORS if t["name"] != "bec")]
    loss = sum(
        (out[field] - torch.randn(out[field].shape, generator=generator)).square().sum()
        for field in fields
    )
    loss.backward()
    dead = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert not dead


@pytest.mark.parametrize("site", ["heads", "edge_up", "node_up"])
def test_a_kan_stands_where_it_is_asked_for_and_nowhere_else(build, site):
    found = sites(build(readout={"sites": site}))
    asked = "output" if site == "heads" else site
    for name, slots in found.items():
        assert slots
        assert all(isinstance(slot.function, KAN) == (name == asked) for slot in slots)


def test_mlp_and_kan_have_equally_many_parameters(build):
    width = {"num_features": 32, "num_triplet_features": 16}
    kan, mlp = (count_parameters(build(readout=kind, **width)) for kind in ("kan", "mlp"))
    assert abs(kan - mlp) < 0.02 * kan


@pytest.mark.parametrize(
    ("readout", "tensors"),
    [
        pytest.param("mlp", TENSORS, id="mlp, every tensor"),
        pytest.param({"basis": "gaussian"}, SOME, id="gaussian"),
        pytest.param({"basis": "bspline"}, SOME, id="bspline"),
    ],
)
def test_torchscript_gives_what_eager_gives(build, crystal, readout, tensors):
    model = build(tensors=tensors, readout=readout)
    eager = predict(model, crystal)
    scripted = script(model)
    for atoms in (crystal, crystal[:1], crystal):
        compiled = scripted(model_input(atoms, R_MAX, TYPES))
    for tensor in tensors:
        field = "born_effective_charges" if tensor["name"] == "bec" else tensor["name"]
        torch.testing.assert_close(compiled[field], eager[field], atol=1e-12, rtol=0)


def test_float32_agrees_with_float64(build, crystal):
    wide, narrow = (build(model_dtype=dtype) for dtype in ("float64", "float32"))
    narrow.load_state_dict(wide.state_dict())
    born = [predict(m, crystal)["born_effective_charges"] for m in (wide, narrow)]
    torch.testing.assert_close(born[0], born[1], atol=2e-5, rtol=0)


def test_the_seed_decides_the_weights(build):
    first, again, other = (build(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_hops_are_layers_plus_one(build):
    """Messages of layer n reach an atom n + 1 hops away, and no farther one."""
    spacing = 2.5
    atoms = Atoms("O" * 6, positions=[[spacing * n, 0.3 * (n % 2), 0] for n in range(6)])
    model = build(tensors={"name": "bec", "acoustic_sum_rule": False}, num_layers=2)
    hops = num_layers(model)
    assert hops == 3
    felt = []
    reference = predict(model, atoms)["born_effective_charges"][0]
    for n in range(1, 6):
        moved = atoms.copy()
        moved.positions[n, 2] += 0.2
        change = predict(model, moved)["born_effective_charges"][0] - reference
        felt.append(bool(change.any()))
    assert felt == [True] * hops + [False] * (5 - hops)


def test_cutoffs_in_the_wrong_order_are_refused(build):
    with pytest.raises(KanMdError, match=r"triplet_r_max, got 5.0; allowed: 0 < .* set model"):
        build(triplet_r_max=5.0)


def test_unknown_site_is_refused(build):
    with pytest.raises(KanMdError, match=r"readout.sites of etgnn, got latent; allowed: output"):
        build(readout={"sites": "latent"})
