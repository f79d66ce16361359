"""The page on ranks: what its numbers are made of."""

import json

from kan_md.benchmark.machine import describe_machine
from results.experiments import scaling


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
