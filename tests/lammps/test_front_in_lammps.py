"""The front as a user has it: a size trained, deployed and timed in LAMMPS."""

import io
import json

import ase.io
import pytest
import yaml
from rich.console import Console

from kan_md import children
from kan_md.benchmark.compare import Conditions
from kan_md.front import measure
from kan_md.front.held_out import timing_structure
from kan_md.front.study import make_front
from kan_md.model.file_kind import recognise

pytestmark = pytest.mark.lammps

SHORT = Conditions(steps=40, blocks=2, warmup=5, tether=5.0)
NOWHERE = Console(file=io.StringIO())


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(measure, "CONDITIONS", SHORT)


def test_configuration_becomes_a_front_and_a_file_for_lammps(tmp_path, alloy_frames, monkeypatch):
    ase.io.write(tmp_path / "alloy.xyz", alloy_frames * 2)
    config = tmp_path / "config.yaml"
    content = {
        "data": {"train": "alloy.xyz", "split": {"train": 6, "val": 3, "test": 3}},
        "model": {"backbone": "nequip", "r_max": 3.2},
        "training": {"optimizer": {"lr": 0.01}, "epochs": 2},
    }
    config.write_text(yaml.safe_dump(content))
    output = tmp_path / "front"
    result = make_front(config, output, sizes="tiny", console=NOWHERE)
    (tiny,) = result.front
    (row,) = result.timing.rows
    assert row.num_atoms >= 500
    assert tiny.time == pytest.approx(1e3 * row.ms_per_step / row.num_atoms)
    assert tiny.backbone == "mace"
    assert "fused_local_mace" in row.passes
    assert recognise(output / tiny.file).name == "deployed"
    assert json.loads((output / "front.json").read_text())["points"][0]["time"] == tiny.time

    # Again: only LAMMPS runs.
    monkeypatch.setattr(children, "run", lambda *_, **__: pytest.fail("deployed again"))
    monkeypatch.setattr(children, "child", lambda *_, **__: pytest.fail("trained again"))
    (again,) = make_front(config, output, sizes="tiny", console=NOWHERE).front
    assert (again.errors, again.file) == (tiny.errors, tiny.file)


def test_model_that_lammps_cannot_run_is_left_out_by_name(deployed, alloy_frames, tmp_path):
    files = {"alloy": deployed("mace", type_names=("Cu", "Au")), "silver": deployed("mace")}
    atoms = timing_structure(alloy_frames[0], r_max=4.0, fewest=64)
    report, failed = measure.time_all(files, atoms, tmp_path, console=NOWHERE)
    assert [row.label for row in report.rows] == ["alloy"]
    assert list(failed) == ["silver"]
    assert "every element of the structure must be a type of silver" in failed["silver"]
