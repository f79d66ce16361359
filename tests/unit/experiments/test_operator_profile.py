"""Counting the arithmetic of matrix products."""

import json

import pytest

from results.experiments.operator_profile import product_flop
from results.experiments.suite import PROFILE
from results.experiments.zoo import run_program


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([[20, 30], [30, 5]], 2 * 20 * 30 * 5),
        ([[4, 20, 30], [4, 30, 5]], 2 * 4 * 20 * 30 * 5),
        # Inside a TorchScript graph the profiler lists the graph's inputs before the operands.
        ([[20, 64], [20, 64], [64, 16]], 2 * 20 * 64 * 16),
        ([[5], [20, 30], [30, 5], [], []], 2 * 20 * 30 * 5),
        ([[], []], 0),
    ],
)
def test_operands_come_last(shapes, expected):
    assert product_flop(shapes) == expected


def test_profile_of_a_plain_file_counts_its_products(deployed, ag_frames, tmp_path):
    structure = tmp_path / "structure.xyz"
    ag_frames[0].write(structure)
    file = deployed("allegro", model_dtype="float32", deploy={"operators": "portable"})
    text = run_program(PROFILE, file, structure, "--steps", 2, what="profile")
    found = json.loads(text.splitlines()[-1])
    # At least the latent network of one layer, [edges, 4] x [4, 8], forward and reverse.
    assert found["product_gflop"] > 2e-9 * 2 * found["num_edges"] * 4 * 8
    assert found["product_gflop"] < 1.0
    assert found["limit_ms"] > 0
    assert sum(share for _, share, _ in found["operators"]) <= 1 + 1e-9
