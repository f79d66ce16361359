"""MACE with what TorchScript does not take as upstream writes it: LAMMPS says what Python says.

Repulsion beside fused and plain layers, and blocks that no pass knows, in single precision, which
is what people train.
"""

import numpy as np
import pytest
from engine import ZERO_STEPS, system
from structures import ELEMENTS, rattled

from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.reference import evaluate
from kan_md_deploy import deploy

pytestmark = pytest.mark.lammps

SINGLE = {"model_dtype": "float32"}
ZBL = SINGLE | {"pair_repulsion": True}
ATT = "RealAgnosticAttResidualInteractionBlock"
NONLINEAR = "RealAgnosticResidualNonLinearInteractionBlock"
VARIANTS = {
    "repulsion": (ZBL, {"operators": "portable"}),
    "repulsion, Agnesi": (ZBL | {"distance_transform": "Agnesi"}, {}),
    "repulsion, Agnesi, many elements": (
        ZBL | {"distance_transform": "Agnesi", "type_names": (*ELEMENTS, "Ag", "Ni", "Pd")},
        {},
    ),
    "repulsion, Soft": (ZBL | {"distance_transform": "Soft"}, {"passes": "none"}),
    "repulsion, float64": (ZBL, {"dtype": "float64"}),
    "attention": (SINGLE | {"interaction_cls": ATT}, {}),
    "attention, first": (SINGLE | {"interaction_cls_first": ATT}, {"static_shapes": True}),
    "nonlinear": (SINGLE | {"interaction_cls": NONLINEAR}, {}),
    "nonlinear, scalars": (
        SINGLE | {"interaction_cls": NONLINEAR, "hidden_irreps": "4x0e"},
        {"dtype": "float64", "operators": "portable", "bound": 0.0},
    ),
}


@pytest.fixture(scope="module")
def close():
    """A crystal with two atoms closer than their covalent radii, where the repulsion acts."""
    atoms = rattled((2, 2, 1), seed=4)
    direction = atoms.get_distance(0, 1, mic=True, vector=True)
    atoms.positions[1] = atoms.positions[0] + 1.5 * direction / np.linalg.norm(direction)
    return atoms


def test_lammps_has_the_energy_and_forces_of_the_eager_model(
    engine, tiny_checkpoint, close, tmp_path
):
    sources = {
        name: tiny_checkpoint("mace", **{"type_names": ELEMENTS} | keywords)
        for name, (keywords, _) in VARIANTS.items()
    }
    jobs = []
    for number, (name, (_, options)) in enumerate(VARIANTS.items()):
        file = deploy(sources[name], tmp_path / f"{number}.deployed.pth", **options)
        commands = system(close, ELEMENTS, "mace", file, folder=tmp_path)
        jobs.append({"commands": [*commands, *ZERO_STEPS], "computes": ["kanpress"]})
    for name, result in zip(VARIANTS, engine.run(jobs), strict=True):
        assert result.error == "", name
        expected = evaluate(load_checkpoint(sources[name]).build("float64"), close)
        exact = VARIANTS[name][1].get("dtype") == "float64"
        scale = expected["forces"].abs().max().item()
        difference = np.abs(result.forces - expected["forces"].numpy()).max()
        assert difference < (1e-8 if exact else 2e-5) * scale, name
        energy = float(expected["energy"])
        assert abs(result.energy - energy) < (1e-8 if exact else 1e-5) * len(close), name
    without = SINGLE | {"pair_repulsion": False}
    bare = load_checkpoint(tiny_checkpoint("mace", type_names=ELEMENTS, **without)).build("float64")
    with_repulsion = load_checkpoint(sources["repulsion"]).build("float64")
    pushed = evaluate(with_repulsion, close)["energy"] - evaluate(bare, close)["energy"]
    assert float(pushed) > 0.1  # else it would have tested nothing
