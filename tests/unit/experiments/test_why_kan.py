"""The page of refits is made of its stored runs."""

import json
from pathlib import Path

from results.experiments.why_kan import page

RESULTS = Path(__file__).parents[3] / "results"


def test_the_page_is_that_of_the_stored_runs():
    stored = json.loads((RESULTS / "why_kan.json").read_text())
    assert page(stored) == (RESULTS / "why_kan.md").read_text()


def test_means_and_each_seed_are_in_the_table():
    stored = json.loads((RESULTS / "why_kan.json").read_text())
    (first,) = [entry for entry in stored["runs"].values()][:1]
    twin = {
        **first,
        "seed": first["seed"] + 1,
        "before": {k: 3 * v for k, v in first["before"].items()},
    }
    text = page({"machine": "a machine", "runs": {"one": first, "two": twin}})
    energy = 1e3 * first["before"]["energy_mae"]
    assert f"| {2 * energy:.3g} → " in text
    assert f"({energy:.3g}/{3 * energy:.3g} → " in text
