"""The model crystal with analytic tensors."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kan_md.data.charge_transfer import (
    born_charges,
    dipole_change,
    make_charge_transfer,
    susceptibility,
)
from kan_md.errors import KanMdError


@pytest.fixture(scope="module")
def atoms():
    return make_charge_transfer(1, 0)[0]


def test_born_charges_are_derivatives_of_the_dipole(atoms):
    step = 1e-5
    charges = atoms.arrays["bec"].reshape(-1, 3, 3)
    for atom, axis in ((0, 0), (5, 1), (11, 2)):
        moves = np.zeros((16, 3))
        moves[atom, axis] = step
        slope = (dipole_change(atoms, moves) - dipole_change(atoms, -moves)) / (2 * step)
        np.testing.assert_allclose(charges[atom, :, axis], slope, atol=1e-8)


def test_acoustic_sum_rule_and_opposite_signs(atoms):
    charges = atoms.arrays["bec"].reshape(-1, 3, 3)
    assert abs(charges.sum(0)).max() < 1e-13
    traces = np.trace(charges, axis1=1, axis2=2)
    assert (traces[atoms.symbols == "Zn"] > 0).all()
    assert (traces[atoms.symbols == "S"] < 0).all()
    assert abs(charges - charges.swapaxes(1, 2)).max() > 0.01  # three-body, hence not symmetric


def test_tensors_turn_with_the_crystal_and_repeat_with_it(atoms):
    turn = Rotation.from_rotvec([0.3, 0.5, -0.8]).as_matrix()
    turned = atoms.copy()
    turned.set_cell(atoms.cell[:] @ turn.T)
    turned.positions = atoms.positions @ turn.T
    expected = np.einsum("xi,nij,yj->nxy", turn, atoms.arrays["bec"].reshape(-1, 3, 3), turn)
    np.testing.assert_allclose(born_charges(turned), expected.reshape(-1, 9), atol=1e-12)
    tensor = atoms.info["susceptibility"].reshape(3, 3)
    np.testing.assert_allclose(
        susceptibility(turned).reshape(3, 3), turn @ tensor @ turn.T, atol=1e-12
    )
    double = atoms.repeat((1, 2, 1))
    np.testing.assert_allclose(born_charges(double), np.tile(atoms.arrays["bec"], (2, 1)))
    np.testing.assert_allclose(susceptibility(double), atoms.info["susceptibility"])


def test_the_seed_decides_the_structures():
    first, again, other = (make_charge_transfer(1, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.positions, again.positions)
    assert abs(first.positions - other.positions).max() > 0.01


def test_no_frames_and_negative_seeds_are_refused():
    with pytest.raises(KanMdError, match="seed must be >= 0, got -1"):
        make_charge_transfer(1, -1)
    with pytest.raises(KanMdError, match="number of frames must be >= 1, got 0"):
        make_charge_transfer(0, 0)
