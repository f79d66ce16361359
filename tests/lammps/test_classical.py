"""The potentials of LAMMPS' own that local models are timed beside: LAMMPS takes the files."""

import pytest

from kan_md.benchmark.compare import Conditions, compare
from kan_md.benchmark.structures import silver
from results.experiments.classical import CLASSICAL


def test_lammps_runs_every_one_of_them(tmp_path):
    entries = [make(tmp_path) for make in CLASSICAL.values()]
    report = compare(
        entries,
        silver((3, 3, 3), vacancies=0),
        conditions=Conditions(steps=2, blocks=1, warmup=0, tether=5.0),
    )
    assert [row.num_atoms for row in report.rows] == [108] * len(CLASSICAL)
    temperatures = [row.temperature for row in report.rows]
    assert temperatures == pytest.approx([300.0] * len(CLASSICAL), rel=0.1)  # two steps do little
