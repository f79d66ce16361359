"""Physics that every backbone has with every readout, against finite differences and symmetry."""

import numpy as np
import pytest
from ase import Atoms

from kan_md.model.reference import evaluate

BASES = ["gaussian", "bspline", "fourier"]
BACKBONES = ["allegro", "nequip", "mace"]
READOUTS = [
    *({"kind": "kan", "basis": basis} for basis in BASES),
    {"kind": "kan", "hidden": [5]},
    {"kind": "kan", "projection": 4},
    {"kind": "mlp"},
    {"kind": "linear"},
]
CASES = [(backbone, readout) for backbone in BACKBONES for readout in READOUTS]
EVERY_SITE = [
    *(("allegro", site, b) for site in ("output", "two_body", "latent", "all") for b in BASES),
    *(("nequip", "output", basis) for basis in BASES),
    *(("mace", site, basis) for site in ("output", "radial", "all") for basis in BASES),
]


def energy_of(model, atoms: Atoms) -> float:
    return float(evaluate(model, atoms)["energy"])


@pytest.mark.parametrize(("backbone", "readout"), CASES)
def test_force_is_minus_energy_gradient(tiny_model, triclinic, backbone, readout):
    model = tiny_model(backbone, readout)
    forces = evaluate(model, triclinic)["forces"].numpy()
    step = 1e-4
    for atom, axis in ((0, 0), (3, 1), (4, 2)):
        energies = []
        for sign in (2, 1, -1, -2):
            moved = triclinic.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(energy_of(model, moved))
        gradient = np.dot([-1, 8, -8, 1], energies) / (12 * step)
        assert forces[atom, axis] == pytest.approx(-gradient, abs=2e-9, rel=1e-8)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_virial_is_minus_energy_derivative_by_strain(tiny_model, triclinic, backbone):
    model = tiny_model(backbone)
    virial = evaluate(model, triclinic)["virial"].numpy()
    step = 1e-4
    for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
        energies = []
        for sign in (2, 1, -1, -2):
            strain = np.eye(3)
            strain[a, b] += sign * step / 2
            strain[b, a] += sign * step / 2
            strained = triclinic.copy()
            strained.set_cell(triclinic.cell[:] @ strain, scale_atoms=True)
            energies.append(energy_of(model, strained))
        derivative = np.dot([-1, 8, -8, 1], energies) / (12 * step)
        assert virial[a, b] == pytest.approx(-derivative, abs=1e-8, rel=1e-8)


@pytest.mark.parametrize(("backbone", "readout"), CASES)
def test_energy_is_invariant_and_forces_turn_along(tiny_model, molecule, backbone, readout):
    model = tiny_model(backbone, readout)
    before = evaluate(model, molecule)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    for turn in (rotation, -rotation):  # one of the two is proper, the other has an inversion
        order = np.array([3, 0, 4, 1, 2])
        moved = molecule[order]
        moved.positions = moved.positions @ turn.T + np.array([11.0, -3.0, 5.0])
        after = evaluate(model, moved)
        assert float(after["energy"]) == pytest.approx(float(before["energy"]), abs=1e-11)
        np.testing.assert_allclose(
            after["forces"].numpy(), before["forces"].numpy()[order] @ turn.T, atol=1e-10
        )


@pytest.mark.parametrize(("backbone", "site", "basis"), EVERY_SITE)
def test_energy_and_force_are_smooth_across_r_max(tiny_model, molecule, backbone, site, basis):
    model = tiny_model(backbone, {"kind": "kan", "sites": site, "basis": basis})
    r_max = float(model.metadata["r_max"])

    def with_neighbour_at(distance: float):
        # Only atom 1 is within reach of the newcomer, which comes from the far side of it.
        atoms = molecule + Atoms("Au", positions=[molecule.positions[1] + [distance, 0, 0]])
        frame = evaluate(model, atoms)
        return float(frame["energy"]), frame["forces"].numpy()

    inside = with_neighbour_at(0.7 * r_max)
    distances = molecule.positions[[0, 2, 3, 4]] - molecule.positions[1] - [r_max, 0, 0]
    assert np.linalg.norm(distances, axis=1).min() > r_max + 0.1
    beyond = with_neighbour_at(r_max + 1e-9)
    assert abs(inside[0] - beyond[0]) > 1e-5
    for step in (1e-3, 1e-4):
        energy, forces = with_neighbour_at(r_max - step)
        # The cutoff vanishes with its second derivative: energy falls with step³, force with step².
        assert abs(energy - beyond[0]) < 200 * step**3
        assert np.abs(forces - beyond[1]).max() < 600 * step**2


@pytest.mark.parametrize(("backbone", "readout"), CASES)
@pytest.mark.parametrize("symbol", ["Cu", "Au"])
def test_isolated_atom_has_exactly_its_reference_energy(tiny_model, backbone, readout, symbol):
    frame = evaluate(tiny_model(backbone, readout), Atoms(symbol, positions=[[0.3, 0.1, 0.2]]))
    assert float(frame["energy"]) == {"Cu": -1.25, "Au": -3.5}[symbol]
    assert not frame["forces"].any()


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("basis", BASES)
def test_energy_of_far_apart_systems_is_the_sum(tiny_model, molecule, backbone, basis):
    model = tiny_model(backbone, {"kind": "kan", "basis": basis})
    other = molecule[[0, 1, 3]]
    other.rattle(0.1, seed=4)
    apart = other.copy()
    apart.positions += [50.0, 0.0, 0.0]
    total = energy_of(model, molecule + apart)
    assert total == pytest.approx(energy_of(model, molecule) + energy_of(model, other), abs=1e-12)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_supercell_has_the_energy_of_its_cells(tiny_model, triclinic, backbone):
    model = tiny_model(backbone)
    assert energy_of(model, triclinic * (2, 1, 2)) == pytest.approx(
        4 * energy_of(model, triclinic), abs=1e-10
    )
