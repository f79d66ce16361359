"""The page on ranks: what its numbers are made of."""

import json

import pytest

from kan_md.benchmark.machine import describe_machine
from results.experiments import scaling
from results.experiments.scaling_model import (
    BANDWIDTH,
    LATENCY,
    Costs,
    fit_costs,
    step_seconds,
)


def test_ratios_are_to_one_rank_of_the_same_model_and_size():
    said = {"layout": "exchange", "ghosts": 512, "edges": 44032, "megabytes": 200}
    milliseconds = {
        ("NequIP", 512, 1, "exchange"): 80.0,
        ("NequIP", 512, 2, "exchange"): 92.0,
        ("NequIP", 512, 2, "recompute"): 160.0,
        ("MACE", 512, 2, "exchange"): 50.0,  # without its one rank: no row
        ("MACE", 4096, 1, "exchange"): 500.0,
        ("MACE", 4096, 8, "exchange"): 550.0,
    }
    cases = {json.dumps(key): said | {"ms": ms} for key, ms in milliseconds.items()}
    text = scaling.page({"blocks": 7, "machine": describe_machine(), "cases": cases})
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ") and line[2].isdigit()
    ]
    found = [(row[0], row[1], row[2], row[-2], row[-1]) for row in rows]
    assert found == [
        ("512", "1", "–", "80.0", "1.00"),
        ("512", "2", "exchange", "92.0", "1.15"),
        ("512", "2", "recompute", "160.0", "2.00"),
        ("4096", "1", "–", "500.0", "1.00"),
        ("4096", "8", "exchange", "550.0", "1.10"),
    ]


def test_the_model_gives_back_the_costs_that_it_is_fitted_to():
    costs = Costs(atom=1e-4, ghost=5e-6, rank=2e-3)
    cases = [
        (atoms, ranks, ghosts, costs.atom * atoms + costs.ghost * ghosts + costs.rank * ranks)
        for atoms, ranks, ghosts in [(512, 1, 0), (512, 8, 3020), (4096, 1, 0), (4096, 8, 16000)]
    ]
    found = fit_costs(cases)
    assert [found.atom, found.ghost, found.rank] == pytest.approx([1e-4, 5e-6, 2e-3])


def test_a_step_of_the_model_is_work_messages_and_bytes():
    """One rank has nobody to talk to; eight ranks of a small box each want all of it."""
    costs = Costs(atom=1e-4, ghost=0.0, rank=1e-3)
    system = {"atoms": 512, "density": 0.176, "cutoff": 5.0, "exchanges": 2, "row_bytes": 1000}
    assert step_seconds(costs, ranks=1, **system) == pytest.approx(512e-4 + 1e-3)
    box = 512 / 0.176
    reach = (box / 8) ** (1 / 3) + 10.0
    ghosts = 0.176 * min(reach**3, box) - 64
    sent = 2 * 2 * 1000 * ghosts / BANDWIDTH
    expected = 64e-4 + 1e-3 + 7 * 5 * LATENCY + sent
    assert step_seconds(costs, ranks=8, **system) == pytest.approx(expected)


def test_page_and_figure_of_a_run(tmp_path):
    cases = {}
    for name in scaling.ARCHITECTURES:
        for atoms in scaling.REPEATS:
            for ranks in (1, 8):
                ms = 0.1 * atoms + 0.004 * 3000 * (ranks > 1) + ranks
                cases[json.dumps([name, atoms, ranks, "exchange"])] = {
                    "ms": ms,
                    "ms_of_blocks": [ms, 1.1 * ms, 1.2 * ms],
                    "layout": "exchange",
                    "ghosts": 3000 * (ranks > 1),
                    "edges": 86 * atoms,
                    "megabytes": 200,
                }
    stored = {"blocks": 3, "machine": describe_machine(), "cases": cases}
    scaling.save_scaling_figure(stored, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 20_000
    assert "a model, not a measurement" in scaling.page(stored)
    # 3,000 rows of 288 float32, twice forth and back.
    assert "| 13.8 |" in scaling.page(stored)
