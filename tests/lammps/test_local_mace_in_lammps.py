"""A MACE of one layer is strictly local: ghosts of one cutoff, exact on any number of ranks."""

import re

import numpy as np
import pytest
from engine import ZERO_STEPS, system
from structures import ELEMENTS, structures

pytestmark = [pytest.mark.lammps, pytest.mark.mpi]

R_MAX, SKIN = 4.0, 0.5  # Å; the first is that of the alloy models
READOUTS = {"shared": {"num_basis": 5}, "per element": {"num_basis": 5, "per_type": True}}


@pytest.fixture(scope="module")
def files(alloy_model):
    deploy = {"operators": "fused", "bound": 1e-8}
    return {
        name: alloy_model("mace", deploy=deploy, num_interactions=1, readout=readout)
        for name, readout in READOUTS.items()
    }


@pytest.mark.parametrize("name", READOUTS)
def test_two_four_and_eight_ranks_agree_with_one(engine, files, tmp_path, name):
    atoms = structures()["triclinic"].repeat((3, 2, 2))
    before = [f"neighbor {SKIN} bin"]
    commands = system(atoms, ELEMENTS, "mace", files[name], folder=tmp_path)
    jobs = [{"commands": [*commands, *before, *ZERO_STEPS, "info comm"], "computes": ["kanpress"]}]
    (alone,) = engine.run(jobs)
    assert alone.error == ""
    for ranks in (2, 4, 8):
        (result,) = engine.run(jobs, ranks=ranks)
        assert result.error == ""
        assert len(result.owned_by_rank) == ranks and min(result.owned_by_rank) > 0
        assert re.findall(r"Communication cutoff += +([\d.]+)", result.output) == [
            str(R_MAX + SKIN)
        ]
        assert result.energy == pytest.approx(alone.energy, abs=1e-8)
        for key in ("eatom", "f"):
            np.testing.assert_allclose(result.atoms[key], alone.atoms[key], atol=1e-8)
        np.testing.assert_allclose(result.virial, alone.virial, atol=1e-8)
