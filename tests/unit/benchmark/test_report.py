"""Tables, figures and files made from a report."""

from dataclasses import replace
from io import StringIO

import pytest
from matplotlib.colors import to_hex

from kan_md.benchmark.compare import Report
from kan_md.benchmark.report import draw_figure, markdown, screen_table
from kan_md.benchmark.store import check_folder, load_report, save_report
from kan_md.errors import KanMdError


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


def test_an_unwritable_folder_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KanMdError, match="must be writable"):
        check_folder(tmp_path / "file" / "folder")
