"""The benchmark as a user runs it: real LAMMPS processes on one and two ranks."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from kan_md.benchmark.compare import Conditions, compare
from kan_md.benchmark.models import baseline_entry, deployed_entry
from kan_md.benchmark.structures import silver
from kan_md.errors import KanMdError
from results.experiments import cases, suite, zoo

pytestmark = pytest.mark.lammps

MIB = 2**20


@pytest.fixture(scope="module")
def eam():
    return baseline_entry("eam")


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi)])
def test_models_take_turns_on_one_trajectory(eam, ranks, tmp_path):
    entries = [replace(eam, label="A"), replace(eam, label="B")]
    turns = []
    report = compare(
        entries,
        silver(),
        conditions=Conditions(steps=60, blocks=3, warmup=5, ranks=ranks),
        control=entries[0],
        folder=tmp_path,
        progress=lambda label, done, total: turns.append((label, done, total)),
    )
    assert turns == [
        *(("A", 0, 60), ("B", 0, 60)),
        *((label, done, 60) for done in (20, 40, 60) for label in "AB"),
    ]
    a, b = report.rows
    assert (a.steps, a.num_atoms, a.ratio, report.control) == (60, 71, 1.0, "A")
    assert b.ratio > 0
    assert 0 < a.ms_per_step <= a.ms_p95
    # One thread per rank computes, and what a run begins with is no part of the loop.
    assert 0 < a.cpu_ms_per_step <= 1.05 * ranks * a.ms_mean
    assert a.ns_per_day == pytest.approx(86.4 / a.ms_mean)
    assert sum(a.phases.values()) == pytest.approx(1.0, abs=0.01)
    assert a.temperature == pytest.approx(b.temperature)  # the same trajectory
    (steps,) = {
        sum(json.loads(f.read_text())["steps"] for f in (tmp_path / folder).glob("block-*"))
        for folder in ("0-a", "1-b")
    }
    assert steps == 65


def test_step_times_add_up_to_the_loop_time(eam, tmp_path):
    compare(
        [eam],
        silver((6, 6, 6)),
        conditions=Conditions(steps=50, blocks=2, warmup=4),
        folder=tmp_path,
    )
    for number in (1, 2):
        block = json.loads((tmp_path / "0-eam--classical" / f"block-{number}.json").read_text())
        assert len(block["step_times"]) == block["steps"] == 25
        assert sum(block["step_times"]) == pytest.approx(block["loop_time"], rel=0.05)
        assert min(block["step_times"]) > 0


def test_edges_are_those_of_the_crystal_and_memory_is_the_childs(eam):
    ballast = np.ones(400 * MIB // 8)  # in this process; a child must not inherit its peak
    cold = Conditions(steps=2, blocks=1, warmup=0, temperature=1.0)
    (row,) = compare([eam], silver((6, 6, 6), vacancies=0), conditions=cold).rows
    # within 5.55 Å an atom of fcc silver has 12 + 6 + 24 neighbours
    assert row.edges_per_atom == 42.0
    assert 10 < row.peak_rss_mib < 300
    assert ballast[-1] == 1.0


def test_a_deployed_model_runs_beside_its_control(deployed, tmp_path):
    files = [deployed("allegro", readout={"kind": kind}) for kind in ("kan", "mlp")]
    output = tmp_path / "timing"
    run_cli(
        *("benchmark", *files, "--vs", "mlp", "--steps", 20, "--blocks", 2, "--warmup", 4),
        *("--output", output),
    )
    report = json.loads((output / "report.json").read_text())
    assert [row["readout"] for row in report["rows"]] == ["kan gaussian", "mlp"]
    assert report["control"] == report["rows"][1]["label"]
    assert report["rows"][0]["ratio"] > 0
    assert report["rows"][0]["dtype"] == "float64"
    assert report["rows"][0]["device_mib"] == {}  # on a CPU
    assert {"report.md", "report.png", "runs"} <= {path.name for path in output.iterdir()}
    script = next((output / "runs").glob("0-*/in.lammps")).read_text()
    assert "pair_style allegro" in script
    assert script.endswith("run 20\n")


def test_a_failing_run_gives_lammps_own_words(deployed, tmp_path):
    entry = replace(deployed_entry(str(deployed("allegro"))), pair_style="nequip", label="wrong")
    with pytest.raises(KanMdError, match=r"the run of wrong stopped .* use pair_style allegro"):
        compare([entry], silver(), conditions=Conditions(steps=5, blocks=1), folder=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.pth"], "must exist"),
        ([], "needs a model"),
        (["--baseline", "eam", "--vs", "mlp"], "exactly one"),
        (["--baseline", "eam", "--steps", "0"], "steps must be at least 1"),
        (["--baseline", "eam", "--supercell", "0", "1", "1"], "supercell"),
        (["--baseline", "eam", "--structure", "none.xyz"], "structure file must exist"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(arguments, message, tmp_path):
    output = tmp_path / "out"
    done = run_cli("benchmark", *arguments, "--output", output, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not output.exists()


def test_the_suite_measures_only_what_is_missing(eam, tmp_path, monkeypatch, capsys):
    built = []

    def build(model, folder, *, threads):
        built.append(model.label)
        if model.label == "broken":
            raise KanMdError("does not build")
        return replace(eam, label=model.label)

    models = tuple(zoo.Model(label=label, config={}) for label in ("MLP", "KAN", "broken"))
    case = cases.Case(
        name="a",
        title="A",
        models=models,
        structure=silver,
        control="MLP",
        targets={"KAN": 1000.0},
        blocks=2,
    )
    impossible = replace(case, name="b", title="B", models=models[2:], control="broken")
    section = cases.Section(name="page", title="Page", text="", cases=(case, impossible))
    monkeypatch.setattr(suite, "build", build)
    monkeypatch.setitem(suite.SECTIONS, "page", lambda: section)
    arguments = ["--only", "page", "--quick", "--jobs", "1", "--steps", "10"]
    arguments += ["--output", str(tmp_path), "--work", str(tmp_path / "work")]
    assert suite.main(arguments) == 1  # B cannot be measured
    page = (tmp_path / "page.md").read_text()
    assert "Without broken: does not build" in page
    assert "Not measured: does not build" in page
    assert "| 1000.00 | yes |" in page
    assert built == ["MLP", "KAN", "broken", "broken"]
    assert suite.main(arguments) == 1
    assert built[4:] == ["broken"]  # A was not measured again
    assert suite.main([*arguments, "--case", "a"]) == 0
    assert built[5:] == []
    assert suite.main([*arguments, "--draw"]) == 0
    assert (tmp_path / "page.md").read_text() == page
    assert suite.main([*arguments, "--case", "a", "--fresh", "--build-only"]) == 0
    assert built[5:] == ["MLP", "KAN", "broken"]
    assert suite.main([*arguments, "--case", "c"]) == 2
    assert "no such case, got c; allowed: a, b" in capsys.readouterr().err


def run_cli(*arguments, check=True):
    return subprocess.run(
        [sys.executable, "-m", "kan_md", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=check,
    )
