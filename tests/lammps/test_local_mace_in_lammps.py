"""A MACE of one layer is strictly local: ghosts of one cutoff, exact on any number of ranks."""

import re

import numpy as np
import pytest
from engine import ZERO_STEPS, system
from structures import ELEMENTS, structures

from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.reference import evaluate

pytestmark = [pytest.mark.lammps, pytest.mark.mpi]

R_MAX, SKIN = 4.0, 0.5  # Å; the first is that of the alloy models
KAN = {"readout": {"num_basis": 5}}
KEYWORDS = {
    "shared": KAN,
    "per element": {"readout": {"num_basis": 5, "per_type": True}},
    # Of which two are in the run: the operator has one table for all, and divides by densities.
    "many elements": KAN
    | {
        "type_names": ("Ag", *ELEMENTS, "Ni", "Pd"),
        "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
    },
}


@pytest.fixture(scope="module")
def files(deployed):
    return {
        name: deployed("mace", deploy={"operators": "fused", "bound": 1e-8}, **arguments(name))
        for name in KEYWORDS
    }


def arguments(name):
    return {"type_names": ELEMENTS, "num_interactions": 1} | KEYWORDS[name]


@pytest.mark.parametrize("name", KEYWORDS)
def test_ranks_say_what_the_eager_model_says(engine, files, tiny_checkpoint, tmp_path, name):
    atoms = structures()["triclinic"].repeat((3, 2, 2))
    before = [f"neighbor {SKIN} bin"]
    commands = system(atoms, ELEMENTS, "mace", files[name], folder=tmp_path)
    jobs = [{"commands": [*commands, *before, *ZERO_STEPS, "info comm"], "computes": ["kanpress"]}]
    (alone,) = engine.run(jobs)
    assert alone.error == ""
    eager = load_checkpoint(tiny_checkpoint("mace", **arguments(name))).build("float64")
    expected = evaluate(eager, atoms)
    assert alone.energy == pytest.approx(expected["energy"].item(), abs=1e-6)
    np.testing.assert_allclose(alone.forces, expected["forces"], atol=1e-6)
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
