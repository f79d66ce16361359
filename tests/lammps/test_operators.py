"""Files of before and of later: operators by name, in LAMMPS."""

import numpy as np
import pytest
from engine import ZERO_STEPS, system
from manifests import as_of_before, calling_another, with_manifest
from structures import ELEMENTS, structures

pytestmark = pytest.mark.lammps


def test_files_of_before_run_and_unknown_operators_are_named(engine, alloy_model, tmp_path):
    now = alloy_model("allegro", deploy={"operators": "fused", "bound": 1e-9})
    chosen = {
        "now": now,
        "before": with_manifest(now, tmp_path / "before.pth", as_of_before),
        "later": with_manifest(now, tmp_path / "later.pth", calling_another),
    }
    jobs = [
        {
            "commands": [
                *system(structures()["triclinic"], ELEMENTS, "allegro", file, folder=tmp_path),
                *ZERO_STEPS,
            ]
        }
        for file in chosen.values()
    ]
    new, old, unknown = engine.run(jobs)
    assert new.error == old.error == ""
    np.testing.assert_array_equal(old.forces, new.forces)
    assert "operator that this build does not have, got kan_md::of_tomorrow; " in unknown.error
