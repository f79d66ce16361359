"""The adapter against mace-torch's own model with the same weights."""

import numpy as np
import pytest
import torch
from ase import Atoms

from kan_md.backbones import build_model
from kan_md.backbones.mace import import_mace
from kan_md.backbones.mace_weights import build_arguments_of, copy_weights, readout_kind_of
from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.model.reference import evaluate

R_MAX = 4.0


def mace_torch_numbers(model, atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy, forces and virial by mace-torch's own data pipeline and model."""
    import_mace()
    from mace.data import AtomicData, config_from_atoms
    from mace.tools import AtomicNumberTable, torch_geometric

    table = AtomicNumberTable(model.atomic_numbers.tolist())
    with nequip_settings():
        torch.set_default_dtype(torch.float64)
        data = AtomicData.from_config(config_from_atoms(atoms), z_table=table, cutoff=R_MAX)
        (batch,) = torch_geometric.dataloader.DataLoader([data], batch_size=1)
        out = model(batch.to_dict(), compute_virials=True, compute_stress=True)
    energy = float(out["energy"].detach())
    return energy, out["forces"].numpy(), out["virials"][0].numpy()


def adapted(model):
    readout = readout_kind_of(model)
    ours = build_model(
        "mace", seed=0, model_dtype="float64", readout=readout, **build_arguments_of(model)
    )
    copy_weights(ours, model)
    return ours.eval()


def structure(elements: list[int]) -> Atoms:
    rng = np.random.default_rng(2)
    cell = np.array([[5.5, 0, 0], [0.8, 5.1, 0], [-0.4, 0.6, 5.9]])
    grid = np.array([[a, b, c] for a in (0, 0.5) for b in (0, 0.5) for c in (0, 0.5)])
    positions = grid @ cell + rng.normal(0, 0.15, grid.shape)
    numbers = [elements[index % len(elements)] for index in range(len(grid))]
    return Atoms(numbers, positions=positions, cell=cell, pbc=True)


def assert_same(model, atoms: Atoms) -> None:
    energy, forces, virial = mace_torch_numbers(model, atoms)
    ours = evaluate(adapted(model), atoms)
    assert float(ours["energy"]) == pytest.approx(energy, abs=1e-10 * len(atoms))
    np.testing.assert_allclose(ours["forces"].numpy(), forces, atol=1e-10)
    np.testing.assert_allclose(ours["virial"].numpy(), virial, atol=1e-9)
    assert np.abs(forces).max() > 1e-4


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("correlation", [1, 2, 3])
def test_adapter_agrees_with_mace_torch(mace_torch_model, order, correlation):
    from e3nn import o3

    # One element and three, each with every order and every correlation.
    elements = [29] if (order + correlation) % 2 else [1, 6, 8]
    hidden = o3.Irreps(" + ".join(["4x0e", "4x1o", "4x2e"][: order + 1]))
    model = mace_torch_model(elements, hidden_irreps=hidden, correlation=correlation)
    assert_same(model, structure(elements))


def _variants():
    blocks = import_mace().interaction_classes
    return {
        "no-scale-shift": {"kind": "MACE"},
        "residual-first": {"interaction_cls_first": blocks["RealAgnosticResidualInteractionBlock"]},
        "density": {
            "interaction_cls": blocks["RealAgnosticDensityResidualInteractionBlock"],
            "interaction_cls_first": blocks["RealAgnosticDensityInteractionBlock"],
        },
        "one-layer": {"num_interactions": 1},
        "three-layers": {"num_interactions": 3, "correlation": [1, 2, 1]},
        "repulsion-and-transform": {"pair_repulsion": True, "distance_transform": "Agnesi"},
        "cutoff-on-weights": {"apply_cutoff": False},
        "tanh-gate": {"gate": torch.tanh},
        "full-clebsch-gordan": {"use_reduced_cg": False},
        "last-readout-only": {"use_last_readout_only": True},
        "gaussian-radial": {"radial_type": "gaussian", "num_bessel": 6},
    }


@pytest.mark.parametrize("variant", _variants())
def test_adapter_agrees_with_variants_of_mace_torch(mace_torch_model, variant):
    assert_same(mace_torch_model([8, 14], **_variants()[variant]), structure([8, 14]))


def test_isolated_atom_keeps_the_energy_of_mace_torch(mace_torch_model):
    # With a self-connection in the first layer, upstream's isolated atom is not at its E0; the
    # adapter must not "repair" that, or converted models would change.
    blocks = import_mace().interaction_classes
    model = mace_torch_model(
        [8, 14], interaction_cls_first=blocks["RealAgnosticResidualInteractionBlock"]
    )
    atom = Atoms("O", positions=[[0.0, 0.0, 0.0]])
    energy, _, _ = mace_torch_numbers(model, atom)
    assert abs(energy - (-1.0 + 0.125)) > 1e-3
    assert float(evaluate(adapted(model), atom)["energy"]) == pytest.approx(energy, abs=1e-12)
