"""Scriptable stand-ins for mace-torch's blocks: the same numbers, and TorchScript takes them."""

import copy

import pytest
import torch
from e3nn.util.jit import script

from kan_md.backbones.mace import import_mace
from kan_md.backbones.mace_blocks import Gate, ZBLRepulsion, make_differentiable, make_scriptable
from kan_md.model.reference import evaluate

ATT = "RealAgnosticAttResidualInteractionBlock"
NONLINEAR = "RealAgnosticResidualNonLinearInteractionBlock"
DTYPES = (torch.float32, torch.float64)


def inputs_of(interaction, *, num_atoms=5, dtype=torch.float64):
    """Random features of a fully connected cluster."""
    generator = torch.Generator().manual_seed(0)

    def random(rows, irreps):
        return torch.randn(rows, irreps.dim, generator=generator, dtype=dtype)

    pairs = torch.combinations(torch.arange(num_atoms)).t()
    edge_index = torch.cat([pairs, pairs.flip(0)], dim=1)
    num_edges = edge_index.size(1)
    return {
        "node_attrs": torch.eye(2, dtype=dtype)[torch.arange(num_atoms) % 2],
        "node_feats": random(num_atoms, interaction.node_feats_irreps),
        "edge_attrs": random(num_edges, interaction.edge_attrs_irreps),
        "edge_feats": random(num_edges, interaction.edge_feats_irreps),
        "edge_index": edge_index,
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [ATT, NONLINEAR])
@pytest.mark.parametrize("layer", [0, 1])
def test_interaction_is_that_of_mace_torch(mace_torch_model, name, layer, dtype):
    from e3nn import o3
    from mace.modules import interaction_classes

    block = interaction_classes[name]
    irreps = o3.Irreps("4x0e + 3x1o + 2x2e")
    model = mace_torch_model(
        [8, 14], interaction_cls=block, interaction_cls_first=block, hidden_irreps=irreps
    )
    upstream = model.interactions[layer].to(dtype)
    ours = make_scriptable(copy.deepcopy(upstream))
    assert ours.state_dict().keys() == upstream.state_dict().keys()
    inputs = inputs_of(upstream, dtype=dtype)
    num_edges = inputs["edge_index"].size(1)
    scripted = script(copy.deepcopy(ours))
    for cutoff in (None, torch.linspace(0.1, 0.9, num_edges, dtype=dtype).unsqueeze(1)):
        expected = upstream(**inputs, cutoff=cutoff)
        for module in (ours, scripted):
            for mine, theirs in zip(module(**inputs, cutoff=cutoff), expected, strict=True):
                torch.testing.assert_close(mine, theirs)


def test_gate_without_anything_to_gate(mace_torch_model):
    from e3nn import o3
    from mace.modules.gate import GatedEquivariantBlock

    silu, sigmoid = torch.nn.functional.silu, torch.nn.functional.sigmoid
    upstream = GatedEquivariantBlock(
        irreps_scalars=o3.Irreps("6x0e"),
        act_scalars=[silu],
        irreps_gates=o3.Irreps(""),
        act_gates=[],
        irreps_gated=o3.Irreps(""),
    )
    assert sigmoid is not silu
    x = torch.linspace(-2.0, 2.0, 12).view(2, 6)
    torch.testing.assert_close(script(Gate(upstream))(x), upstream(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("trainable", [False, True])
def test_repulsion_is_that_of_mace_torch(dtype, trainable):
    from mace.modules.radial import ZBLBasis

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        upstream = ZBLBasis(p=6, trainable=trainable)
    finally:
        torch.set_default_dtype(before)
    ours = ZBLRepulsion(upstream)
    assert ours.state_dict().keys() == upstream.state_dict().keys()
    # Hydrogen, copper and gold from far inside to beyond the sum of their covalent radii.
    numbers = torch.tensor([1, 29, 79])
    types = torch.tensor([0, 1, 2, 2])
    edge_index = torch.tensor([[0, 1, 2, 3, 0, 2], [1, 0, 3, 2, 2, 0]])
    lengths = torch.tensor([0.2, 0.2, 0.7, 0.7, 1.6, 3.0], dtype=dtype).unsqueeze(1)
    arguments = (torch.eye(3, dtype=dtype)[types], edge_index, numbers)
    results = []
    for module in (upstream, ours, script(ours)):
        r = lengths.clone().requires_grad_(True)
        energy = module(r, *arguments)
        results.append((energy, *torch.autograd.grad(energy.sum(), r)))
    for found in results[1:]:
        for mine, theirs in zip(found, results[0], strict=True):
            torch.testing.assert_close(mine, theirs)
    energy, slope = results[1]
    assert energy[0] > 0 and slope[0] < 0
    assert slope[5] == 0


def test_force_of_chebyshev_polynomials_is_minus_energy_gradient(tiny_model, molecule):
    """torch.special.chebyshev_polynomial_t has no derivative, and says nothing."""
    model = tiny_model("mace", readout="linear", radial_type="chebyshev")
    forces = evaluate(model, molecule)["forces"].numpy()
    step, energies = 1e-5, []
    for shift in (step, -step):
        moved = molecule.copy()
        moved.positions[0, 1] += shift
        energies.append(float(evaluate(model, moved)["energy"]))
    expected = (energies[1] - energies[0]) / (2 * step)
    assert abs(expected) > 1e-3
    assert forces[0, 1] == pytest.approx(expected, rel=1e-6)


def test_chebyshev_polynomials_are_those_of_mace_torch():
    upstream = import_mace().blocks.RadialEmbeddingBlock(
        r_max=4.0, num_bessel=5, num_polynomial_cutoff=5, radial_type="chebyshev"
    )
    r = torch.linspace(0.3, 4.0, 20).view(-1, 1)
    expected = upstream.bessel_fn(r)
    make_differentiable(upstream)
    torch.testing.assert_close(upstream.bessel_fn(r), expected, rtol=1e-5, atol=1e-4)
