"""Representative options of upstream's builders, from upstream's file to the deployed one."""

import json
from pathlib import Path

import numpy as np
import pytest

from kan_md.backbones.build import discontinuity
from kan_md.backbones.mace import import_mace
from kan_md.model.checkpoint import load_checkpoint
from kan_md.ops import is_built
from kan_md_deploy.runtime import load_deployed
from results.experiments.variants_checks import check, structures
from results.experiments.variants_list import INTERACTIONS, variants
from results.experiments.variants_models import make
from results.experiments.variants_page import GRADIENT, is_good, page

RESULTS = Path(__file__).parents[3] / "results"
REPRESENTATIVE = {
    "allegro: as it is": ("fused_allegro",),
    "nequip: as it is": ("fused_nequip",),
    "mace: first AgnosticDensityResidual": ("fused_mace",),
    "mace: first AgnosticResidualNonLinear": (),
}
KNOWN = {variant.title: variant for variant in variants()}


@pytest.mark.parametrize("title", REPRESENTATIVE)
@pytest.mark.filterwarnings("ignore")
def test_variant_is_upstreams_model_all_the_way(title, tmp_path):
    row = check(KNOWN[title], tmp_path, in_lammps=False)
    assert row.errors == {}
    assert max(row.converted) < 1e-8
    assert row.gradient < GRADIENT
    if is_built():
        assert set(REPRESENTATIVE[title]) <= set(row.passes)
    made = make(KNOWN[title], tmp_path)
    deployed = load_deployed(tmp_path / "exact.deployed.pth")
    for atoms in structures():
        found, expected = deployed.predict(atoms), made.says(atoms)
        assert float(found["energy"]) == pytest.approx(expected.energy, abs=1e-7)
        np.testing.assert_allclose(found["forces"], expected.forces, atol=1e-7)
    # What is said of the cutoff is what upstream's own model does there.
    checkpoint = load_checkpoint(tmp_path / "model.pth")
    jumps = discontinuity(checkpoint.backbone, checkpoint.arguments) is not None
    assert jumps == (abs(row.jump) > 1e-7)


def test_every_interaction_of_mace_torch_is_in_the_table():
    offered = {name for name in import_mace().interaction_classes if name != "InteractionBlock"}
    assert offered == set(INTERACTIONS)
    used = {v.changes.get("interaction_cls") for v in KNOWN.values()}
    first = {v.changes.get("interaction_cls_first") for v in KNOWN.values()}
    assert offered <= used
    assert offered <= first


def test_names_of_variants_are_unique():
    assert len(KNOWN) == len(variants())


def test_page_is_that_of_the_stored_rows_and_nothing_in_it_is_wrong():
    stored = json.loads((RESULTS / "variants.json").read_text())
    assert page(stored) == (RESULTS / "variants.md").read_text()
    for title, row in stored["rows"].items():
        assert is_good(row) or row["errors"], title
