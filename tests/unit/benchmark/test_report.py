"""Tables, figures and files made from a report."""

import json
from dataclasses import replace
from io import StringIO

import pytest
from matplotlib.colors import to_hex

from kan_md.benchmark.cases import Case, Section
from kan_md.benchmark.compare import Conditions, Report
from kan_md.benchmark.pages import write_page
from kan_md.benchmark.report import draw_figure, markdown, screen_table
from kan_md.benchmark.statistics import Row
from kan_md.benchmark.store import check_folder, load_report, save_report
from kan_md.benchmark.structures import silver
from kan_md.errors import KanMdError


def row(label, ms, ratio, **device):
    return Row(
        label=label,
        readout="kan gaussian",
        backbone="allegro",
        dtype="float32",
        backend="torchscript",
        passes=("one",),
        num_atoms=71,
        edges_per_atom=28.0,
        steps=100,
        ms_per_step=ms,
        ms_error=0.1 * ms,
        ms_p95=1.2 * ms,
        ms_mean=ms,
        us_per_atom_step=ms * 1e3 / 71,
        ns_per_day=86.4 / ms,
        phases={"Pair": 0.9, "Comm": 0.1},
        peak_rss_mib=300.0,
        device_mib=device,
        temperature=300.0,
        ratio=ratio,
        ratio_error=0.01,
    )


@pytest.fixture
def report():
    return Report(
        title="two models",
        rows=[row("KAN", 10.0, 0.5), row("MLP", 20.0, 1.0)],
        control="MLP",
        structure="Ag71",
        conditions=Conditions(steps=100),
        machine={
            "cpu": "some CPU",
            "cores": 2,
            "memory_gib": 4.0,
            "gpus": [],
            "system": "Linux",
            "python": "3",
            "versions": {"torch": "2"},
        },
        command="kan-md benchmark",
        date="2026-01-01 00:00",
    )


def test_a_report_survives_its_json(report, tmp_path):
    assert Report.from_json(report.to_json()) == report
    save_report(report, tmp_path / "new", name="report")
    assert load_report(tmp_path / "new" / "report.json") == report
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
        "report.json",
        "report.md",
        "report.png",
    ]


def test_the_page_states_units_machine_versions_command_and_seed(report):
    text = markdown(report)
    for part in ("ms/step", "µs/step", "ns/day", "MiB", "some CPU", "torch 2", "seed 1"):
        assert part in text
    assert "`kan-md benchmark`, 2026-01-01 00:00 UTC" in text
    assert "| KAN | kan gaussian | 10.0 ± 1.0" in text
    assert "0.500 ± 0.010" in text


def test_bars_start_at_zero_with_units_and_errors(report):
    time, memory, phases = draw_figure(report).axes
    for axes in (time, memory, phases):
        assert axes.get_xlim()[0] == 0.0
    assert time.get_xlabel() == "time (ms/step)"
    assert memory.get_xlabel() == "peak resident memory (MiB)"
    assert [bar.get_width() for bar in time.patches] == [10.0, 20.0]
    errors = next(c for c in time.containers if hasattr(c, "has_xerr")).lines[2][0].get_segments()
    assert [segment[1][0] - segment[0][0] for segment in errors] == pytest.approx([2.0, 4.0])
    assert len({to_hex(bar.get_facecolor()) for bar in phases.patches}) == 2


def test_device_memory_is_shown_where_there_is_some(report):
    rows = [
        replace(r, device_mib={"cuda_peak_allocated": 50.0, "driver": 90.0}) for r in report.rows
    ]
    text = markdown(replace(report, rows=rows))
    assert "GPU allocated (MiB)" in text and "GPU driver (MiB)" in text
    assert "GPU" not in markdown(report)
    _, memory, _ = draw_figure(replace(report, rows=rows)).axes
    assert [bar.get_width() for bar in memory.patches] == [50.0, 50.0]


def test_the_table_fits_eighty_columns(report):
    from rich.console import Console

    console = Console(width=80, record=True, file=StringIO())
    console.print(screen_table(report))
    text = console.export_text()
    assert "0.500±0.010" in text and "…" not in text


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


def test_an_unwritable_folder_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KanMdError, match="must be writable"):
        check_folder(tmp_path / "file" / "folder")
