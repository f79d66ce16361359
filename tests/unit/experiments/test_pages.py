"""Pages made from stored reports."""

import json
from dataclasses import replace

from kan_md.benchmark.structures import silver
from results.experiments.cases import Case, Section
from results.experiments.pages import write_page


def section():
    case = Case(name="one", title="First case", models=(), structure=silver, control="MLP")
    return Section(
        name="page",
        title="Page",
        text="What is compared.",
        cases=(case, replace(case, name="two", title="Second case")),
    )


def stored(report, **changes):
    result = {"report": json.loads(report.to_json()), "targets": {"KAN": 0.6}, "missing": {}}
    return {
        "quick": False,
        "cases": {"one": result, "two": {"error": "out of memory"}},
        "profiles": {},
        **changes,
    }


def test_a_page_says_what_is_reached_and_what_failed(report, tmp_path):
    write_page(section(), stored(report), tmp_path)
    text = (tmp_path / "page.md").read_text()
    assert "| First case | KAN | 20.00 | 10.00 | 0.500 ± 0.010 | 0.60 | yes | 1.00 |" in text
    assert "Not measured: out of memory" in text
    assert (tmp_path / "page-one.png").exists()
    assert "no measurements" not in text


def test_a_missed_target_is_said_and_a_trial_run_is_marked(report, tmp_path):
    slow = replace(report, rows=[replace(report.rows[0], ratio=0.9), report.rows[1]])
    write_page(section(), stored(slow, quick=True), tmp_path)
    text = (tmp_path / "page.md").read_text()
    assert "| 0.900 ± 0.010 | 0.60 | no |" in text
    assert "no measurements" in text


def test_profiles_give_the_distance_to_the_limit(report, tmp_path):
    profile = {
        "ms_per_step": 12.0,
        "operators": [["aten::mm", 0.5, 3.0]],
        "product_gflop": 0.4,
        "gemm_gflops": 100.0,
        "limit_ms": 4.0,
        "num_edges": 1978,
        "threads": 1,
    }
    profiles = {"allegro": {"profile": profile, "atoms": 71}, "mace": {"error": "no file"}}
    write_page(section(), stored(report, profiles=profiles), tmp_path)
    text = (tmp_path / "page.md").read_text()
    assert "| allegro | 71 | 1978 | 1 | 12.00 | 0.400 | 100 | 4.00 | 3.0 |" in text
    assert "- allegro: mm 50 %" in text
    assert "Profile of mace: not measured: no file" in text
