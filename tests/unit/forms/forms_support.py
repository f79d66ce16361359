"""Structures of two elements, and two forms of a model held together on them."""

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from nequip.data import AtomicDataDict

from kan_md.model.reference import model_input

R_MAX = 3.4
TYPES = ("Cu", "Au")
ZBL = {
    "_target_": "nequip.nn.pair_potential.ZBL",
    "units": "metal",
    "chemical_species": list(TYPES),
}


def cells():
    """Cells of several sizes; a lone atom; a cell of one atom that is its own neighbour."""
    rng = np.random.default_rng(3)
    large, small = bulk("Cu", cubic=True) * (2, 1, 1), bulk("Cu", cubic=True)
    large.symbols[[0, 3, 5]] = "Au"
    small.symbols[1] = "Au"
    for atoms in (large, small):
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
    strained = bulk("Au", a=4.0)
    strained.set_cell(strained.cell @ (np.eye(3) + rng.normal(0, 0.05, (3, 3))), scale_atoms=True)
    lone = Atoms("Cu", positions=[(1, 1, 1)], cell=np.eye(3) * 12, pbc=True)
    return [small, lone, large, strained]


def make_batch(frames):
    """What training gives to a model."""
    inputs = [model_input(atoms, R_MAX, TYPES) for atoms in frames]
    return AtomicDataDict.batched_from_list([AtomicDataDict.with_batch_(data) for data in inputs])


def results(call, model, batch):
    """Energies, forces, stresses, and the gradients of a loss in all three."""
    model.zero_grad()
    out = call({name: tensor.clone() for name, tensor in batch.items()})
    keys = ("total_energy", "atomic_energy", "forces", "stress")
    values = {key: out[key] for key in keys}
    generator = torch.Generator().manual_seed(0)
    loss = 0.0
    for value in values.values():
        target = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        loss = loss + (value - target).square().mean()
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(gradient is not None for gradient in gradients.values())
    return {name: value.detach().clone() for name, value in (values | gradients).items()}


def assert_same(actual, expected, tolerance=1e-10):
    """Each quantity relative to its own largest number; rounding of a vanishing one aside."""
    for name, value in expected.items():
        scale = max(float(value.abs().max()), 1e-5)
        error = float((actual[name] - value).abs().max()) / scale
        assert error < tolerance, f"{name}: {error:.1e}"
    assert actual.keys() == expected.keys()
